"""Union-find: disjoint sets as trees in one array, for regions (felzenszwalb.py) and runs of cells (fragments.py).

``parent[i]`` is the index of the parent of element i. For a root it is minus the size of the set, in pixels or cells.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import kernel

PARENTS = types.int32[::1]


@kernel(PARENTS, types.int64)
def root(parent: NDArray[np.int32], i: int) -> int:
    """Return the root of the tree that holds an element. Halves the path to the root on the way.

    Args:
        parent: Trees, int32 [N]; modified.
        i: Element.
    """
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
    """Join the trees of two roots and return the new root. The larger tree stays on top, which keeps paths short.

    Args:
        parent: Trees, int32 [N]; modified.
        i: A root.
        j: Another root.
    """
    if parent[i] > parent[j]:
        i, j = j, i
    parent[i] += parent[j]
    parent[j] = i
    return i
