"""Chooses a few prompts in each overlap of two masks (E-SAM section 3.3). The vote on the overlap needs only these."""

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
    max_points: int,
) -> NDArray[np.bool_]:
    """Choose the first points in the overlap of each pair of masks.

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        point_yx: Points int32 [P, 2], y before x, in cells.
        order: Points in the order in which they are taken, int [P].
        max_points: Largest number of points for one pair.

    Returns:
        bool [P], True if the point is chosen for some pair.
    """
    wanted = np.zeros(len(point_yx), np.bool_)
    _points_in_overlaps(
        bits, box, np.ascontiguousarray(point_yx, np.int32), np.ascontiguousarray(order, np.int64), max_points, wanted
    )
    return wanted


@kernel(BITS, BOXES, array(types.int32, 2), INDEX, types.int64, types.boolean[::1])
def _points_in_overlaps(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    point_yx: NDArray[np.int32],
    order: NDArray[np.int64],
    max_points: int,
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
                if taken == max_points:
                    break
                y, x = point_yx[p, 0], point_yx[p, 1]
                if (bits[j, y, x >> 6] >> np.uint64(x & 63)) & one:
                    wanted[p] = True
                    taken += 1
