"""Finds the smallest mask that holds a region (E-SAM eq. 9)."""

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
    need: NDArray[np.floating],
) -> NDArray[np.int64]:
    """For each label the smallest mask that holds at least need[label] of its cells: int64 [K], the lowest index of
    equals, -1 = none.

    labels_hw: int32 [H, W], 0…K-1, or -1 for a cell of none. need: float [K]. bits: uint64 [N, H, ceil(W / 64)]; box:
    int16 [N, 4] (x0, y0, x1, y1, half-open); area: int32 [N]; cells.
    """
    order = np.argsort(area, kind="stable")
    holder = np.full(len(need), -1, np.int64)
    if len(order):
        holder[need <= 0] = order[0]
    labelled = pack(labels_hw[None] >= 0)[0]
    _smallest_holders(bits, box, order, labels_hw, labelled, np.ascontiguousarray(need, np.float64), holder)
    return holder


@kernel(BITS, BOXES, INDEX, LABELS, PLANE, array(types.float64, 1), types.int64[::1])
def _smallest_holders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    order: NDArray[np.int64],
    labels_hw: NDArray[np.int32],
    labelled_hw: NDArray[np.uint64],
    need: NDArray[np.float64],
    holder: NDArray[np.int64],
) -> None:
    one = np.uint64(1)
    cells = np.zeros(len(need), np.int64)
    met = np.empty(len(need), np.int64)  # labels in the mask
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
            if holder[k] < 0 and cells[k] >= need[k]:
                holder[k] = m
            cells[k] = 0
