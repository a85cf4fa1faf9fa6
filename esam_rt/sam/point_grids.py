"""Point prompts: square grids over the photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def point_grid(side: int) -> NDArray[np.float32]:
    """The points ((i + 0.5) / side, (j + 0.5) / side), row by row: float32 [side², 2], x before y, in [0, 1] of the
    photo (E-SAM §3.2)."""
    centre = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(centre, centre)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def scattered(side: int) -> NDArray[np.int64]:
    """The points of a grid in Bayer's dither order, int64 [side²]: the first few in any region lie spread over it."""
    rank = np.zeros((1, 1), np.int64)
    while len(rank) < side:
        rank = np.block([[4 * rank, 4 * rank + 2], [4 * rank + 3, 4 * rank + 1]])
    return np.argsort(rank[:side, :side].ravel(), kind="stable")
