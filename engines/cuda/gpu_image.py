"""Photos that lie in a GPU's memory: scaled there, never copied to the host as a whole."""

from __future__ import annotations

import ctypes
import importlib.resources
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.engines.cuda.array_interface import GpuArray
from esam_rt.engines.cuda.device import CudaDevice, CudaKernel, DeviceBuffer
from esam_rt.errors import InputError

BLOCK_XY = (32, 8)  # threads of a block, a pixel each


class GpuImages:
    """Takes photos of other libraries on a GPU: PyTorch, CuPy, Numba, JAX, CV-CUDA, PyNvVideoCodec and so on.

    using: context of what uses the GPU, beside others; none is entered within another.
    """

    def __init__(self, device: CudaDevice, using: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self.device, self.using = device, using
        ptx = importlib.resources.files(__package__).joinpath("scale_image.ptx").read_bytes()
        self._kernel = CudaKernel(device, ptx, "place_photo")

    def photo(self, array: Any) -> GpuImage:
        """The photo, uint8 [H, W, 3] in RGB, in place; its rows may lie apart. InputError for anything else, and for
        memory of another GPU."""
        with self.using():
            found = self.device.located(array)
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

    def placed(self, photo: GpuArray, resized_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> DeviceBuffer:
        """The photo scaled to resized_hw at the top left of a black canvas: uint8 [1, H, W, 3]. The stream does it.
        EngineError as of `CudaDevice.check_is_running`."""
        self.device.check_is_running()
        canvas = self.device.allocate((1, *canvas_hw, 3), np.uint8)
        grid = tuple(-(-n // of_block) for n, of_block in zip(canvas_hw[::-1], BLOCK_XY, strict=True))
        photo_h, photo_w, *of_canvas = map(ctypes.c_uint, (*photo.shape[:2], *canvas_hw, *resized_hw))
        photo_at, row_bytes = ctypes.c_void_p(photo.pointer), ctypes.c_longlong(photo.strides_bytes[0])
        arguments = (photo_at, row_bytes, photo_h, photo_w, ctypes.c_void_p(canvas.pointer), *of_canvas)
        self._kernel.launch((grid[0], grid[1]), BLOCK_XY, arguments)
        return canvas


class GpuImage:
    """A photo uint8 [H, W, 3] in a GPU's memory; whose it is must not change it before the call that got it returns."""

    def __init__(self, photos: GpuImages, array: GpuArray) -> None:
        self._photos, self._array = photos, array

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels: height, width, 3."""
        return self._array.shape

    def on_canvas(self, resized_hw: tuple[int, int], canvas_px: int) -> DeviceBuffer:
        """Scaled to resized_hw, at the top left of a black square: uint8 [1, canvas_px, canvas_px, 3] on the GPU.

        Means of the pixels covered where it shrinks, bilinear between pixels' centres where it grows; within one level
        of OpenCV's INTER_AREA and INTER_LINEAR, which round otherwise.
        """
        with self._photos.using():
            return self._photos.placed(self._array, resized_hw, (canvas_px, canvas_px))

    def on_host(self, resized_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Scaled to resized_hw, copied to the host: uint8 [H, W, 3]."""
        with self._photos.using(), self._photos.placed(self._array, resized_hw, resized_hw) as small:
            copied: NDArray[np.uint8] = small.numpy()[0]
            return copied
