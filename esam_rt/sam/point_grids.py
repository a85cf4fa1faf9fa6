"""Grids of point prompts: square, or by area on the sphere."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Latitudes: TypeAlias = tuple[float, float]
"""Latitude of the upper and the lower edge of an image in a panorama, in radians."""


def point_grid(side: int, latitudes: Latitudes | None = None) -> NDArray[np.float32]:
    """Return the points ((i + 0.5) / side, (j + 0.5) / side), row by row (E-SAM §3.2).

    In a panorama, rows away from the equator have fewer points: each point stands for the same area on the sphere.

    Args:
        side: Points per side.
        latitudes: Latitudes of the upper and the lower edge, if the image is a part of a panorama.

    Returns:
        float32 [P, 2] in [0, 1] of the image, x before y; P = side² without latitudes.
    """
    center = (np.arange(side, dtype=np.float32) + 0.5) / side
    if latitudes is None:
        x, y = np.meshgrid(center, center)
        return np.stack([x.ravel(), y.ravel()], axis=1)
    top, bottom = latitudes
    counts = np.maximum(1, np.rint(side * np.cos(top + (bottom - top) * center))).astype(np.intp)
    x = np.concatenate([(np.arange(n, dtype=np.float32) + 0.5) / n for n in counts])
    return np.stack([x, np.repeat(center, counts)], axis=1)


def scattered(side: int, latitudes: Latitudes | None = None) -> NDArray[np.int64]:
    """Return the points of a grid in Bayer's dither order: the first few in any region are spread over it.

    Args:
        side: Points per side.
        latitudes: See ``point_grid``.

    Returns:
        int64 [P], indices into ``point_grid(side, latitudes)``.
    """
    rank = np.zeros((1, 1), np.int64)
    while len(rank) < side:
        rank = np.block([[4 * rank, 4 * rank + 2], [4 * rank + 3, 4 * rank + 1]])
    x, y = (point_grid(side, latitudes).T * side).astype(np.intp)
    return np.argsort(rank[y, x], kind="stable")
