"""A few prompts in each overlap of two masks (E-SAM §3.3): what a vote on the overlap needs."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.iou import box_overlap
from esam_rt.kernels.jit import BITS, BOXES, INDEX, array, kernel


def points_in_overlaps(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    point_yx: NDArray[np.int32],
    order: NDArray[np.integer],
    most: int,
) -> NDArray[np.bool_]:
    """Which points are among the first `most`, in `order`, inside both masks of some pair: bool [P].

    bits: uint64 [N, H, ceil(W / 64)]; box: int16 [N, 4] (x0, y0, x1, y1, half-open). point_yx: int32 [P, 2], cells.
    """
    wanted = np.zeros(len(point_yx), np.bool_)
    _points_in_overlaps(
        bits, box, np.ascontiguousarray(point_yx, np.int32), np.ascontiguousarray(order, np.int64), most, wanted
    )
    return wanted


@kernel(BITS, BOXES, array(types.int32, 2), INDEX, types.int64, types.boolean[::1])
def _points_in_overlaps(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    point_yx: NDArray[np.int32],
    order: NDArray[np.int64],
    most: int,
    wanted: NDArray[np.bool_],
) -> None:
    one = np.uint64(1)
    inside = np.empty(len(order), np.int64)
    for i in range(len(bits)):
        count = 0
        for p in order:
            y, x = point_yx[p, 0], point_yx[p, 1]
            if (bits[i, y, x >> 6] >> np.uint64(x & 63)) & one:
                inside[count] = p
                count += 1
        for j in range(i + 1, len(bits)):
            if box_overlap(box, i, box, j) == 0:
                continue
            taken = 0
            for p in inside[:count]:
                if taken == most:
                    break
                y, x = point_yx[p, 0], point_yx[p, 1]
                if (bits[j, y, x >> 6] >> np.uint64(x & 63)) & one:
                    wanted[p] = True
                    taken += 1
