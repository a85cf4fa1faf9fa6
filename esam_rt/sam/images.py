"""Checks and scaling of input images."""

from __future__ import annotations

import logging
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.engines.cuda.gpu_image import GpuImage
from esam_rt.errors import InputError
from esam_rt.sam.geometry import Geometry

_log = logging.getLogger("esam_rt")
Photo: TypeAlias = NDArray[np.uint8] | GpuImage


def _padded(photo: NDArray[np.uint8], geometry: Geometry, side: int) -> NDArray[np.uint8]:
    """The photo scaled, at the top left of a black square: uint8 [1, side, side, 3]."""
    h, w = geometry.resized_hw
    shrinks = max(geometry.orig_hw) > side
    padded = np.zeros((1, side, side, 3), np.uint8)
    padded[0, :h, :w] = cv2.resize(photo, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return padded


def check_photo(image_hwc_rgb: NDArray[np.uint8]) -> None:
    """InputError unless uint8 [H, W, 3] with at least one pixel."""
    found = f"{getattr(image_hwc_rgb, 'dtype', type(image_hwc_rgb).__name__)} {getattr(image_hwc_rgb, 'shape', '')}"
    if (
        not isinstance(image_hwc_rgb, np.ndarray)
        or image_hwc_rgb.dtype != np.uint8
        or image_hwc_rgb.ndim != 3
        or image_hwc_rgb.shape[2] != 3
        or 0 in image_hwc_rgb.shape
    ):
        raise InputError(f"Photo: expected a NumPy array uint8 [height, width, 3] in RGB, got {found}.")
