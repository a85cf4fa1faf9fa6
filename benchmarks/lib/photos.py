"""Photos to measure with: a folder of the user, or those of scikit-image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from esam_rt.sources.decode import read_photo

PHOTOS_OF_SKIMAGE = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field", "immunohistochemistry")
SUFFIXES = (".jpg", ".jpeg", ".png")
Image = NDArray[np.uint8]


def photos(folder: Path | None) -> dict[str, Callable[[], Image]]:
    """List photos by name, each with a function that reads it.

    Args:
        folder: A folder of photos. None: the photos of scikit-image.

    Returns:
        Functions that return uint8 [H, W, 3], RGB.

    Raises:
        SystemExit: The folder has no photo.
    """
    if folder is None:
        return {name: getattr(skimage.data, name) for name in PHOTOS_OF_SKIMAGE}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no photo found. Give a folder of files that end in {', '.join(SUFFIXES)}.")
    return {path.name: lambda path=path: read_photo(path, path.name).image_hwc_rgb for path in paths}  # type: ignore[misc]


def at_size(image: Image, size_px: int | None) -> Image:
    """Scale a photo to a square of that side, or return it unchanged for None."""
    if size_px is None:
        return image
    shrinks = size_px < min(image.shape[:2])
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size_px, size_px), interpolation=how), np.uint8)
