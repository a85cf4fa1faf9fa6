"""Counts the pixels that labels of two maps share. Labels of the first map may be moved.

Only pairs that meet are counted, so that maps with thousands of labels need little memory. A row is read in runs of one
pair each.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import array, kernel

MAP = array(types.uint16, 2)
SHIFT = 16  # bits of a label


def label_pairs(
    before: NDArray[np.uint16], after: NDArray[np.uint16], offset_yx: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each pair of labels that meet.

    Args:
        before: Labels uint16 [h, w]; 0 is no label. It may be a part of a map.
        after: Labels uint16 [H, W]; 0 is no label.
        offset_yx: Rows and columns by which each label of ``before`` is moved, int [L + 1, 2] with L the highest
            label of ``before``. The place of the part in its map is added.

    Returns:
        Pairs int64 [P, 2] in ascending order, the label of ``before`` first, and their pixels int64 [P].
    """
    before, after = np.ascontiguousarray(before), np.ascontiguousarray(after)
    offset = np.ascontiguousarray(offset_yx, np.int32)
    room = 16 * len(before)
    while True:
        key, length = np.empty(room, np.int64), np.empty(room, np.int64)
        runs = _runs(before, after, offset, key, length)
        if runs <= room:
            break
        room = runs
    named, which = np.unique(key[:runs], return_inverse=True)
    pixels = np.bincount(which, length[:runs], len(named)).astype(np.int64)
    return np.stack([named >> SHIFT, named & (1 << SHIFT) - 1], axis=1), pixels


@kernel(MAP, MAP, array(types.int32, 2), types.int64[::1], types.int64[::1])
def _runs(
    before: NDArray[np.uint16],
    after: NDArray[np.uint16],
    offset_yx: NDArray[np.int32],
    key: NDArray[np.int64],
    length: NDArray[np.int64],
) -> int:
    """Write pair and length of each run, as far as there is room. Return the number of runs."""
    h, w = after.shape
    height, width = before.shape
    runs = 0
    for y in range(height):
        last, begin = np.int64(0), 0
        for x in range(width + 1):
            pair = np.int64(0)
            if x < width and before[y, x] > 0:
                a = before[y, x]
                to_y, to_x = y + offset_yx[a, 0], x + offset_yx[a, 1]
                if 0 <= to_y < h and 0 <= to_x < w and after[to_y, to_x] > 0:
                    pair = np.int64(a) << SHIFT | np.int64(after[to_y, to_x])
            if pair != last:
                if last > 0:
                    if runs < len(key):
                        key[runs], length[runs] = last, x - begin
                    runs += 1
                last, begin = pair, x
    return runs
