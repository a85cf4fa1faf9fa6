"""Interpolated precision at given recalls, as pycocotools computes it.

Detections are taken in order of score, and right(d) and wrong(d) are counts up to the d-th. Then
``recall(d) = right(d) / positives`` and ``precision(d) = right(d) / (right(d) + wrong(d))``. The interpolated precision
at recall r is the highest precision(d) of all d with ``recall(d) >= r``, or 0 if no detection reaches r. Photos have
weights: a photo with weight 2 counts as two copies.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import array, kernel

WRONG, RIGHT, IGNORED = 0, 1, 2  # verdicts about a detection


@kernel(
    array(types.uint8, 2),
    array(types.int64, 1),
    array(types.int64, 2),
    array(types.int64, 1),
    array(types.float64, 1),
    types.float64[:, :, ::1],
)
def interpolate_precision(
    verdict: NDArray[np.uint8],
    photo: NDArray[np.int64],
    weights: NDArray[np.int64],
    positives: NDArray[np.int64],
    recalls: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Fill ``out`` with interpolated precision, for B weightings, T IoU thresholds and R recalls.

    Only right detections are points of the curve: a wrong one lowers the precision and leaves the recall as it is.

    Args:
        verdict: ``WRONG``, ``RIGHT`` or ``IGNORED`` for each detection, uint8 [T, D], by descending score.
        photo: Photo of each detection, int64 [D].
        weights: Weight of each photo, int64 [B, P].
        positives: Weighted number of entities, int64 [B].
        recalls: Recalls in ascending order, float64 [R].
        out: float64 [B, T, R]; zero before. A weighting without entities stays zero.
    """
    right, wrong = np.empty(len(photo) + 1, np.int64), np.empty(len(photo) + 1, np.int64)
    weight = np.empty(len(photo), np.int64)
    for b in range(len(weights)):
        if positives[b] == 0:
            continue
        for d in range(len(photo)):  # the same for all thresholds
            weight[d] = weights[b, photo[d]]
        for t in range(len(verdict)):
            rights, wrongs, points = 0, 0, 0
            for d in range(len(photo)):  # no branches: they would be unpredictable, and this is five times as fast
                is_right = verdict[t, d] == RIGHT
                rights += weight[d] * is_right
                wrongs += weight[d] * (verdict[t, d] == WRONG)
                right[points], wrong[points] = rights, wrongs  # overwritten until a right detection makes it a point
                points += is_right
            best = 0.0
            r = len(recalls) - 1
            while r >= 0 and rights / positives[b] < recalls[r]:
                r -= 1
            for k in range(points - 1, -1, -1):
                best = max(best, right[k] / (wrong[k] + right[k] + 2.220446049250313e-16))  # np.spacing(1), as in COCO
                before = right[k - 1] / positives[b] if k else -1.0
                while r >= 0 and before < recalls[r]:
                    out[b, t, r] = best
                    r -= 1
