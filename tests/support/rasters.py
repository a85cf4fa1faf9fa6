"""Rasters of flat colored regions, and a segmenter that finds them exactly."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from scipy import ndimage

from esam_rt.entity_map import EntityMap
from tests.support.fake_segmenter import FakeSegmenter

NORTH_UP = rasterio.Affine(2.0, 0.0, 500_000.0, 0.0, -2.0, 5_000_000.0)  # two metres a pixel


def regions(height: int, width: int, seed: int = 0, count: int = 40) -> NDArray[np.int64]:
    """Return labels [H, W] from 0 on: discs and bars over a ground of 0. Each label is one connected region."""
    rng = np.random.default_rng(seed)
    painted = np.zeros((height, width), np.int64)
    y, x = np.mgrid[:height, :width]
    for label in range(1, count + 1):
        cy, cx, r = rng.integers(0, height), rng.integers(0, width), rng.integers(6, max(8, min(height, width) // 5))
        if label % 3:
            painted[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = label
        else:
            painted[max(0, cy - 5) : cy + 6, max(0, cx - 3 * r) : cx + 3 * r] = label
    found = np.zeros_like(painted)
    for label in range(1, count + 1):
        pieces, number = ndimage.label(painted == label)
        found[pieces > 0] = pieces[pieces > 0] + found.max()
        del number
    return found


def colored(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Paint each label with its own color: uint8 [H, W, 3]. Label 0 is black."""
    code = labels.astype(np.int64) * 5
    return np.stack([code % 251, code // 251 % 251, np.where(labels > 0, 255, 0)], axis=2).astype(np.uint8)


def write_raster(path: Path, bands: NDArray[Any], **profile: Any) -> Path:
    """Write bands [C, H, W] as a tiled GeoTIFF in UTM 33N."""
    options = {"crs": "EPSG:32633", "transform": NORTH_UP, "tiled": True, "blockxsize": 64, "blockysize": 64} | profile
    count, height, width = bands.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # some are meant to be so
        with rasterio.open(path, "w", "GTiff", width, height, count, dtype=bands.dtype, **options) as data:
            data.write(bands)
    return path


class ColorSegmenter(FakeSegmenter):
    """Finds each connected region of one color that is not black."""

    def __call__(self, image_hwc_rgb: NDArray[np.uint8]) -> EntityMap:
        self.before(self.seen)
        self.seen += 1
        code = image_hwc_rgb.astype(np.int64) @ [1, 256, 65536]
        labels = np.zeros(code.shape, np.int64)
        for value in np.unique(code[code > 0]):
            pieces, _ = ndimage.label(code == value)
            labels[pieces > 0] = pieces[pieces > 0] + labels.max()
        return EntityMap.from_labels(labels, np.full(labels.max(), 0.5), np.zeros(labels.max(), int))
