"""Means of a map under masks: ``mean(m) = sum of the values in m / |m|``.

A row of a mask is a few runs. With prefix sums along each row, a run costs two reads, whatever its length.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.bits import popcount
from esam_rt.kernels.jit import BITS, BOXES, INDEX, array, kernel


def mask_means(
    bits: NDArray[np.uint64], box: NDArray[np.int16], index: NDArray[np.integer], values_hw: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Average a map over masks.

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        index: Masks to average over, int [K].
        values_hw: Map, float [H, W].

    Returns:
        float32 [K]; 0 for empty masks.
    """
    h, w = values_hw.shape
    before = np.zeros((h, w + 1))  # sum of the cells left of x
    np.cumsum(values_hw, axis=1, dtype=np.float64, out=before[:, 1:])
    mean = np.empty(len(index), np.float32)
    _mask_means(bits, box, np.ascontiguousarray(index, np.int64), before, mean)
    return mean


@kernel(BITS, BOXES, INDEX, array(types.float64, 2), types.float32[::1])
def _mask_means(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    index: NDArray[np.int64],
    before: NDArray[np.float64],
    mean: NDArray[np.float32],
) -> None:
    one = np.uint64(1)
    for k in range(len(index)):
        i = index[k]
        total, cells = 0.0, 0
        first, stop = box[i, 0] >> 6, (box[i, 2] + 63) >> 6
        for y in range(box[i, 1], box[i, 3]):
            last = np.uint64(0)  # the cell left of the word
            for w in range(first, stop):
                word = bits[i, y, w]
                cells += popcount(word)
                ends = word ^ (word << one | last)  # cells that differ from their left neighbor
                last = word >> np.uint64(63)
                while ends != 0:
                    end = ends & (~ends + one)
                    sums = before[y, w * 64 + popcount(end - one)]
                    total += -sums if word & end else sums
                    ends ^= end
            if last:
                total += before[y, stop * 64]
        mean[k] = total / cells if cells else 0.0
