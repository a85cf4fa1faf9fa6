"""Disjoint sets as trees in one array, for joining regions (felzenszwalb.py) and runs of cells (regions.py)."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import kernel

PARENTS = types.int32[::1]  # the element above; of a root minus its number of pixels or cells


@kernel(PARENTS, types.int64)
def root(parent: NDArray[np.int32], i: int) -> int:
    """The root of the tree that i is in; ways to it become shorter."""
    above = parent[i]
    while above >= 0:
        higher = parent[above]
        if higher < 0:
            return int(above)
        parent[i] = higher
        i = int(higher)
        above = parent[i]
    return i


@kernel(PARENTS, types.int64, types.int64)
def join(parent: NDArray[np.int32], i: int, j: int) -> int:
    """Two roots become one: the larger tree stays above, so that ways to the root are short."""
    if parent[i] > parent[j]:
        i, j = j, i
    parent[i] += parent[j]
    parent[j] = i
    return i
