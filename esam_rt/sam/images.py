"""Input images: checked arrays on the host or on a GPU."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.engines.cuda.gpu_image import GpuImage
from esam_rt.errors import InputError


class HostImage:
    """A checked image in the host's memory. It has the interface of ``GpuImage``.

    Args:
        image_hwc_rgb: A NumPy array uint8 [H, W, 3] in RGB with at least one pixel.

    Raises:
        InputError: It is another kind of array.
    """

    def __init__(self, image_hwc_rgb: Any) -> None:
        image = image_hwc_rgb
        is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8
        if not is_array or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
            raise InputError(
                f"Photo: expected a NumPy array uint8 [height, width, 3] in RGB, got {found.strip()}. {_remedy(image)}"
            )
        self._image: NDArray[np.uint8] = np.asarray(image)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, 3."""
        return self._image.shape

    def on_canvas(self, resized_hw: tuple[int, int], canvas_px: int) -> NDArray[np.uint8]:
        """Scale the image and place it at the top left of a black square.

        Args:
            resized_hw: Height and width after scaling, in pixels.
            canvas_px: Side of the square, in pixels.

        Returns:
            uint8 [1, canvas_px, canvas_px, 3].
        """
        h, w = resized_hw
        shrinks = max(self.shape[:2]) > canvas_px
        canvas = np.zeros((1, canvas_px, canvas_px, 3), np.uint8)
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        canvas[0, :h, :w] = cv2.resize(self._image, (w, h), interpolation=interpolation)
        return canvas

    def on_host(self, resized_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the image itself, uint8 [H, W, 3]: nothing has to be copied.

        Args:
            resized_hw: Unused here. ``GpuImage`` copies the image at this size.
        """
        return self._image

    def window(self, y0: int, x0: int, height: int, width: int) -> HostImage:
        """Return a part of the image. Columns beyond the right edge go on at the left edge.

        Args:
            y0: First row.
            x0: First column.
            height: Rows.
            width: Columns.

        Returns:
            A view, or a copy if the part goes over the edge.
        """
        rows = self._image[y0 : y0 + height]
        beyond = x0 + width - rows.shape[1]
        return HostImage(rows[:, x0 : x0 + width] if beyond <= 0 else np.hstack([rows[:, x0:], rows[:, :beyond]]))


Image: TypeAlias = HostImage | GpuImage


def _remedy(image: Any) -> str:
    """Say in one line how to make a photo of another object that people have."""
    if isinstance(image, str | os.PathLike):
        return "Read the file: PIL.Image.open(path), or esam-rt run for whole folders."
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        return 'Convert the Pillow image: np.asarray(image.convert("RGB")).'
    if not isinstance(image, np.ndarray):
        return "Make an array: np.asarray(image, np.uint8)."
    if 0 in image.shape:
        return "It has no pixels."
    if image.dtype != np.uint8:
        if np.issubdtype(image.dtype, np.floating):
            return "For values from 0 to 1: (image * 255).round().astype(np.uint8)."
        return "Scale its values to 0 to 255, then image.astype(np.uint8)."
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        return "Repeat the gray channel: np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)."
    if image.ndim == 3 and image.shape[2] == 4:
        return "Drop the alpha channel: image[..., :3]."
    if image.ndim == 3 and image.shape[0] == 3:
        return "Move the channels last: image.transpose(1, 2, 0)."
    if image.ndim == 4:
        return "Pass the photos of a batch one by one."
    return "Choose three channels: image[..., [red, green, blue]]."


def from_dlpack(array: Any) -> Any:
    """Read another library's array on the host in place, if it offers DLPack.

    Args:
        array: Any object. A NumPy array, and an object without DLPack, come back unchanged.

    Raises:
        InputError: NumPy cannot read the array.
    """
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        return array
    try:
        return np.from_dlpack(array)
    except (BufferError, TypeError, ValueError, RuntimeError) as e:
        raise InputError(
            f"Photo: expected an array uint8 [height, width, 3], found one that NumPy cannot read: {e}"
        ) from e
