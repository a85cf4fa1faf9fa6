"""Images in a GPU's memory. They are scaled there. Only ``render.refine`` needs a copy on the host at full size."""

from __future__ import annotations

import ctypes
import importlib.resources
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.engines.cuda.array_interface import GpuArray
from esam_rt.engines.cuda.device import CudaDevice, DeviceBuffer
from esam_rt.engines.cuda.launch import CudaKernel
from esam_rt.errors import InputError
from esam_rt.rounding import ceil_div

BLOCK_XY = (32, 8)  # threads of a block, one for each pixel


class GpuImages:
    """Accepts images of other libraries on a GPU: PyTorch, CuPy, Numba, JAX, CV-CUDA, PyNvVideoCodec and others.

    Args:
        device: The GPU.
        using: Context of all work on the GPU. It is never entered twice at once by a thread.
    """

    def __init__(self, device: CudaDevice, using: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self.device, self.using = device, using
        ptx = importlib.resources.files(__package__).joinpath("scale_image.ptx").read_bytes()
        self._kernel = CudaKernel(device, ptx, "place_photo")

    def photo(self, array: Any) -> GpuImage:
        """Take an image in place.

        Args:
            array: uint8 [H, W, 3] in RGB on this GPU. There may be gaps between its rows.

        Returns:
            The image.

        Raises:
            InputError: The array has another dtype or shape, gaps between pixels, or lies on another GPU.
        """
        with self.using():
            found = self.device.locate(array)
        shape = found.shape
        if found.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise InputError(
                f"Photo: expected a GPU array uint8 [height, width, 3] in RGB, got {found.dtype} {list(shape)}."
            )
        if not found.rows_are_contiguous(2):
            raise InputError(
                f"Photo: expected the pixels of a row side by side, found strides {list(found.strides_bytes)} of shape "
                f"{list(shape)}; make the array contiguous: a permuted [3, height, width] is not."
            )
        return GpuImage(self, found)

    def scaled(self, image: GpuArray, resized_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> DeviceBuffer:
        """Scale an image onto a black canvas, in the order of the stream.

        Args:
            image: uint8 [H, W, 3].
            resized_hw: Size of the scaled image, at the top left of the canvas.
            canvas_hw: Size of the canvas.

        Returns:
            uint8 [1, canvas H, canvas W, 3].

        Raises:
            EngineError: The stream is being captured.
        """
        self.device.check_is_running()
        canvas = self.device.allocate((1, *canvas_hw, 3), np.uint8)
        grid_x, grid_y = (ceil_div(pixels, threads) for pixels, threads in zip(canvas_hw[::-1], BLOCK_XY, strict=True))
        arguments = (
            ctypes.c_void_p(image.pointer),
            ctypes.c_longlong(image.strides_bytes[0]),
            *map(ctypes.c_uint, image.shape[:2]),
            ctypes.c_void_p(canvas.pointer),
            *map(ctypes.c_uint, (*canvas_hw, *resized_hw)),
        )
        self._kernel.launch((grid_x, grid_y), BLOCK_XY, arguments)
        return canvas


class GpuImage:
    """An image uint8 [H, W, 3] in a GPU's memory. The owner must not change it before the call that got it returns.

    Args:
        images: Scales the image.
        array: Its place in memory.
    """

    def __init__(self, images: GpuImages, array: GpuArray) -> None:
        self._images, self._array = images, array

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width in pixels, and 3."""
        return self._array.shape

    def on_canvas(self, resized_hw: tuple[int, int], canvas_px: int) -> DeviceBuffer:
        """Scale the image onto a black square on the GPU.

        A smaller result has the means of the pixels that each pixel covers. A larger one is bilinear between the
        centers of pixels. OpenCV's INTER_AREA and INTER_LINEAR round differently and differ by at most one level.

        Args:
            resized_hw: Size of the scaled image, at the top left of the square.
            canvas_px: Side of the square.

        Returns:
            uint8 [1, canvas_px, canvas_px, 3] on the GPU.
        """
        with self._images.using():
            return self._images.scaled(self._array, resized_hw, (canvas_px, canvas_px))

    def on_host(self, resized_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Scale the image on the GPU and copy the result to the host.

        Args:
            resized_hw: Size of the result.

        Returns:
            uint8 [H, W, 3].
        """
        with self._images.using(), self._images.scaled(self._array, resized_hw, resized_hw) as small:
            copied: NDArray[np.uint8] = small.numpy()[0]
            return copied

    def window(self, y0: int, x0: int, height: int, width: int) -> GpuImage:
        """Return a part of the image in place. It must lie inside the image.

        Args:
            y0: First row.
            x0: First column.
            height: Rows.
            width: Columns.
        """
        pointer = self._array.pointer + y0 * self._array.strides_bytes[0] + 3 * x0
        return GpuImage(self._images, replace(self._array, pointer=pointer, shape=(height, width, 3)))
