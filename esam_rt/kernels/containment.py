"""Finds the smallest mask that contains a region (E-SAM eq. 9).

Mask m contains region R if they share at least a given number of cells, such as ``0.9 |R|``. Masks are tried from the
smallest to the largest, and the first one that contains the region wins. One pass over a mask counts its cells in all
regions at once.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.bits import pack, popcount
from esam_rt.kernels.jit import BITS, BOXES, INDEX, LABELS, PLANE, array, kernel


def smallest_holders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    labels_hw: NDArray[np.int32],
    min_cells: NDArray[np.floating],
) -> NDArray[np.int64]:
    """Find the smallest mask that contains each region.

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        area: Areas int32 [N] in cells.
        labels_hw: Region of each cell, int32 [H, W], 0 to K - 1, or -1 for a cell outside all regions.
        min_cells: Number of cells of a region that a mask must contain, float [K].

    Returns:
        Index of a mask for each region, int64 [K]; the lowest index on ties, -1 if no mask contains the region.
    """
    order = np.argsort(area, kind="stable")
    holder = np.full(len(min_cells), -1, np.int64)
    if len(order):
        holder[min_cells <= 0] = order[0]
    labelled = pack(labels_hw[None] >= 0)[0]
    _smallest_holders(bits, box, order, labels_hw, labelled, np.ascontiguousarray(min_cells, np.float64), holder)
    return holder


@kernel(BITS, BOXES, INDEX, LABELS, PLANE, array(types.float64, 1), types.int64[::1])
def _smallest_holders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    order: NDArray[np.int64],
    labels_hw: NDArray[np.int32],
    labelled_hw: NDArray[np.uint64],
    min_cells: NDArray[np.float64],
    holder: NDArray[np.int64],
) -> None:
    one = np.uint64(1)
    cells = np.zeros(len(min_cells), np.int64)  # cells of each region in the mask
    met = np.empty(len(min_cells), np.int64)  # regions in the mask
    for m in order:
        count = 0
        for y in range(box[m, 1], box[m, 3]):
            for w in range(box[m, 0] >> 6, (box[m, 2] + 63) >> 6):
                rest = bits[m, y, w] & labelled_hw[y, w]
                while rest != 0:
                    cell = rest & (~rest + one)
                    rest ^= cell
                    k = labels_hw[y, w * 64 + popcount(cell - one)]
                    if cells[k] == 0:
                        met[count] = k
                        count += 1
                    cells[k] += 1
        for k in met[:count]:
            if holder[k] < 0 and cells[k] >= min_cells[k]:
                holder[k] = m
            cells[k] = 0
