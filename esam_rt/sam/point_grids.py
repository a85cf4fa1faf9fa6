"""Square grids of point prompts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def point_grid(side: int) -> NDArray[np.float32]:
    """Return the points ((i + 0.5) / side, (j + 0.5) / side), row by row (E-SAM §3.2).

    Args:
        side: Points per side.

    Returns:
        float32 [side², 2] in [0, 1] of the image, x before y.
    """
    center = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(center, center)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def scattered(side: int) -> NDArray[np.int64]:
    """Return the points of a grid in Bayer's dither order: the first few in any region are spread over it.

    Args:
        side: Points per side.

    Returns:
        int64 [side²], indices into ``point_grid(side)``.
    """
    rank = np.zeros((1, 1), np.int64)
    while len(rank) < side:
        rank = np.block([[4 * rank, 4 * rank + 2], [4 * rank + 3, 4 * rank + 1]])
    return np.argsort(rank[:side, :side].ravel(), kind="stable")
