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
