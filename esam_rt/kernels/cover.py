"""Greedy cover (E-SAM §3.4): few masks that cover much of what is uncovered."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from .bits import popcount
from .jit import BITS, BOXES, INDEX, kernel


def greedy_cover(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    score: NDArray[np.floating],
    covered_hw: NDArray[np.uint64],
    min_gain: int,
) -> NDArray[np.int64]:
    """Indices int64 [T] of the masks taken, in that order: each time the one that newly covers the most cells, ties by
    score and then by lower index, until the best covers fewer than `min_gain` (at least 1).

    bits: uint64 [N, H, ceil(W / 64)]; box: int16 [N, 4] (x0, y0, x1, y1, half-open); area: int32 [N]; score: float [N];
    covered_hw: uint64 [H, ceil(W / 64)], the cells covered before, not modified.
    """
    taken = np.empty(len(bits), np.int64)
    by_score = np.argsort(-np.asarray(score, np.float64), kind="stable")
    count = _greedy_cover(bits, box, by_score, max(min_gain, 1), covered_hw.copy(), area.astype(np.int64), taken)
    return taken[:count]


@kernel(BITS, BOXES, INDEX, types.int64, types.uint64[:, ::1], types.int64[::1], types.int64[::1])
def _greedy_cover(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    by_score: NDArray[np.int64],
    min_gain: int,
    covered_hw: NDArray[np.uint64],
    gain: NDArray[np.int64],
    taken: NDArray[np.int64],
) -> int:
    for count in range(len(bits)):
        best, chosen = min_gain - 1, -1
        for i in by_score:
            if gain[i] <= best:  # as last counted: gains only shrink
                continue
            gain[i] = 0
            for y in range(box[i, 1], box[i, 3]):
                for w in range(box[i, 0] >> 6, (box[i, 2] + 63) >> 6):
                    gain[i] += popcount(bits[i, y, w] & ~covered_hw[y, w])
            if gain[i] > best:
                best, chosen = gain[i], i
        if chosen < 0:
            return count
        for y in range(box[chosen, 1], box[chosen, 3]):
            for w in range(box[chosen, 0] >> 6, (box[chosen, 2] + 63) >> 6):
                covered_hw[y, w] |= bits[chosen, y, w]
        taken[count] = chosen
    return len(bits)
