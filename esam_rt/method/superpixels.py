"""Superpixels of an image (E-SAM §3.2) and the density map made of them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.felzenszwalb import felzenszwalb
from esam_rt.sam.geometry import CELL_PX, Geometry
from esam_rt.settings import Superpixels as SuperpixelSettings


@dataclass(frozen=True, eq=False)
class SuperpixelMap:
    """K superpixels of an image.

    Attributes:
        labels_hw: int32 [H, W] on the working grid, 0 to K - 1. Small superpixels may own no cell.
        area: float64 [K], share of the image.
        centroid_norm_xy: float32 [K, 2] in [0, 1] of the image, x before y.
    """

    labels_hw: NDArray[np.int32]
    area: NDArray[np.float64]
    centroid_norm_xy: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.area)

    def density_map(self, w_max: float) -> NDArray[np.float32]:
        """Return the density map M_D (E-SAM eq. 3): the weight of a superpixel is w_max (1 - area / largest area).

        Args:
            w_max: Weight of an infinitely small superpixel.

        Returns:
            float32 [H, W] on the working grid, in [0, w_max].
        """
        weight = w_max * (1 - self.area / self.area.max())
        return np.asarray(weight.astype(np.float32)[self.labels_hw], np.float32)


def reduced_hw(orig_hw: tuple[int, int], settings: SuperpixelSettings) -> tuple[int, int]:
    """Return the height and width at which superpixels are found, in pixels.

    Args:
        orig_hw: Height and width of the image, in pixels.
        settings: Numbers of the superpixels.
    """
    h, w = orig_hw
    shrink = min(1.0, settings.long_side_px / max(h, w))
    return max(1, round(h * shrink)), max(1, round(w * shrink))


def regions(image_hwc_rgb: NDArray[np.uint8], settings: SuperpixelSettings) -> NDArray[np.int32]:
    """Find the superpixels of an image.

    Args:
        image_hwc_rgb: uint8 [H, W, 3].
        settings: Numbers of the superpixels.

    Returns:
        int32 [h, w] of the reduced image (see ``reduced_hw``), numbered from 0.
    """
    h, w = image_hwc_rgb.shape[:2]
    sh, sw = reduced_hw((h, w), settings)
    small = image_hwc_rgb
    if (sh, sw) != (h, w):
        small = np.asarray(cv2.resize(image_hwc_rgb, (sw, sh), interpolation=cv2.INTER_AREA), np.uint8)
    if settings.method == "slic":
        from skimage.segmentation import slic  # 0.3 s

        # The number per pixel is constant, so an image that is not square has fewer.
        count = max(1, round(settings.count * sh * sw / max(sh, sw) ** 2))
        labels = slic(small, n_segments=count, compactness=settings.compactness, start_label=0, channel_axis=2)
        return np.unique(labels, return_inverse=True)[1].reshape(sh, sw).astype(np.int32)
    growth = (max(sh, sw) / 512) ** 2  # the parameters hold at 512 px and scale with the area
    return felzenszwalb(
        small,
        scale=settings.scale * growth,
        sigma=settings.sigma,
        min_size=max(1, round(settings.min_size * growth)),
    )


def superpixels(image_hwc_rgb: NDArray[np.uint8], geometry: Geometry, settings: SuperpixelSettings) -> SuperpixelMap:
    """Find the superpixels of an image and map them to the working grid.

    Args:
        image_hwc_rgb: uint8 [H, W, 3], at most reduced to ``reduced_hw``.
        geometry: The place of the image in the model's input.
        settings: Numbers of the superpixels.
    """
    labels = regions(image_hwc_rgb, settings)
    sh, sw = labels.shape
    count = int(labels.max()) + 1
    pixels = np.bincount(labels.ravel(), minlength=count).astype(np.float64)
    cx = np.bincount(labels.ravel(), np.tile(np.arange(sw) + 0.5, sh), count) / pixels / sw
    cy = np.bincount(labels.ravel(), np.repeat(np.arange(sh) + 0.5, sw), count) / pixels / sh
    gh, gw = geometry.grid_hw
    rh, rw = geometry.resized_hw
    ys = np.minimum((np.arange(gh) + 0.5) * CELL_PX / rh * sh, sh - 1).astype(np.intp)
    xs = np.minimum((np.arange(gw) + 0.5) * CELL_PX / rw * sw, sw - 1).astype(np.intp)
    return SuperpixelMap(labels[ys[:, None], xs], pixels / labels.size, np.stack([cx, cy], 1).astype(np.float32))
