"""Greedy set cover (E-SAM section 3.4): few masks that cover many uncovered cells.

Each step takes the mask with the highest gain, ``gain(m) = |m and not covered|``, and adds it to the covered cells.
Gains only shrink, so an old gain is an upper bound: a mask is counted again only if its old gain could win.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.bits import popcount
from esam_rt.kernels.jit import BITS, BOXES, INDEX, kernel


def greedy_cover(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    score: NDArray[np.floating],
    covered_hw: NDArray[np.uint64],
    min_gain: int,
) -> NDArray[np.int64]:
    """Take masks until the best one gains fewer than ``min_gain`` cells.

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        area: Areas int32 [N] in cells.
        score: Scores float [N]. On equal gains the higher score wins, then the lower index.
        covered_hw: Cells that are covered already, uint64 [H, ceil(W / 64)]; not modified.
        min_gain: Lowest gain in cells; values below 1 count as 1.

    Returns:
        Indices int64 [T] of the masks, in the order in which they are taken.
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
    words = bits.shape[2]
    covered = covered_hw.reshape(-1)
    for count in range(len(bits)):
        best, chosen = min_gain - 1, -1
        for i in by_score:
            if gain[i] <= best:  # the gain when last counted
                continue
            first, stop = box[i, 1] * words, box[i, 3] * words
            own, before = bits[i].reshape(-1)[first:stop], covered[first:stop]
            cells = 0
            for k in range(len(own)):  # whole rows, as in iou.overlap
                cells += popcount(own[k] & ~before[k])
            gain[i] = cells
            if cells > best:
                best, chosen = cells, i
        if chosen < 0:
            return count
        for y in range(box[chosen, 1], box[chosen, 3]):
            for w in range(words):
                covered_hw[y, w] |= bits[chosen, y, w]
        taken[count] = chosen
    return len(bits)
