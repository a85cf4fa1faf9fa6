"""Felzenszwalb's segmentation by ours, by scikit-image and by OpenCV-contrib, with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import skimage.segmentation
from numpy.typing import NDArray

from benchmarks.lib.photos import Image
from esam_rt.kernels.felzenszwalb import felzenszwalb
from esam_rt.settings import Superpixels

Labels = NDArray[np.integer]


def parameters(image: Image) -> dict[str, Any]:
    """Return scale, sigma and min_size for the size of a photo, as the package scales them."""
    defaults, growth = Superpixels(), (max(image.shape) / 512) ** 2
    min_size = max(1, round(defaults.min_size * growth))
    return {"scale": defaults.scale * growth, "sigma": defaults.sigma, "min_size": min_size}


def ours(image: Image) -> Labels:
    return felzenszwalb(image, **parameters(image))


def scikit_image(image: Image) -> Labels:
    return np.asarray(skimage.segmentation.felzenszwalb(image, channel_axis=-1, **parameters(image)))


def opencv_contrib(image: Image) -> Labels:
    p = parameters(image)
    graph = cv2.ximgproc.segmentation.createGraphSegmentation(p["sigma"], p["scale"], p["min_size"])
    return np.asarray(graph.processImage(image))


SIDES: dict[str, Callable[[Image], Labels]] = {"scikit-image": scikit_image, "ours": ours}
if hasattr(cv2, "ximgproc"):
    SIDES["opencv-contrib"] = opencv_contrib


def rand_index(a: Labels, b: Labels) -> float:
    """Compute the Rand index adjusted for chance (Hubert and Arabie 1985).

    Args:
        a: A label map.
        b: A label map of the same shape.

    Returns:
        1 for equal partitions, about 0 for unrelated ones.
    """

    def pairs(counts: NDArray[np.integer]) -> float:
        return float((counts * (counts - 1.0) / 2).sum())

    together = pairs(np.unique(a.astype(np.int64) * (int(b.max()) + 1) + b, return_counts=True)[1])
    in_a, in_b = (pairs(np.bincount(labels.ravel())) for labels in (a, b))
    chance, most = in_a * in_b / pairs(np.array(a.size)), (in_a + in_b) / 2
    return 1.0 if most == chance else (together - chance) / (most - chance)
