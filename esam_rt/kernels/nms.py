"""Non-maximum suppression on mask IoU, with one threshold or one for each mask (E-SAM section 3.2, eq. 4).

Masks are taken best first. Mask m is kept if ``IoU(m, k) <= iou_max(m)`` for every mask k that was kept before.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.iou import box_overlap, overlap
from esam_rt.kernels.jit import AREAS, BITS, BOXES, INDEX, array, kernel


def greedy_nms(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.integer],
    iou_max: float,
) -> NDArray[np.int64]:
    """Suppress masks with one threshold. Empty masks are dropped.

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        area: Areas int32 [N] in cells.
        order: Masks, best first, int [M].
        iou_max: Largest IoU of a mask with a better one.

    Returns:
        Indices int64 [K] of the kept masks, best first.
    """
    return adaptive_nms(bits, box, area, order, np.full(len(bits), iou_max))


def adaptive_nms(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.integer],
    iou_max_n: NDArray[np.floating],
) -> NDArray[np.int64]:
    """Suppress masks with a threshold for each mask (E-SAM eq. 4). Empty masks are dropped.

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        area: Areas int32 [N] in cells.
        order: Masks, best first, int [M].
        iou_max_n: Largest IoU of each mask with a better one, float [N].

    Returns:
        Indices int64 [K] of the kept masks, best first.
    """
    kept = np.empty(len(order), np.int64)
    count = _nms(
        bits, box, area, np.ascontiguousarray(order, np.int64), np.ascontiguousarray(iou_max_n, np.float64), kept
    )
    return kept[:count]


@kernel(BITS, BOXES, AREAS, INDEX, array(types.float64, 1), types.int64[::1])
def _nms(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.int64],
    iou_max_n: NDArray[np.float64],
    kept: NDArray[np.int64],
) -> int:
    count = 0
    for m in order:
        suppressed = area[m] == 0
        for k in kept[:count]:
            if suppressed:
                break
            both = area[m] + area[k]
            # The IoU grows with the intersection, and rounding keeps this order. If the bound stays below the
            # threshold, the exact count does too.
            bound = min(area[m], area[k], box_overlap(box, m, box, k))
            if bound > 0 and bound / (both - bound) > iou_max_n[m]:
                cells = overlap(bits, box, m, bits, box, k)
                suppressed = cells / (both - cells) > iou_max_n[m]
        if not suppressed:
            kept[count] = m
            count += 1
    return count
