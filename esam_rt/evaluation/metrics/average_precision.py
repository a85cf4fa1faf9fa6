"""Average precision and recall of COCO, for many weightings of the photos at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esam_rt.evaluation.metrics.matching import IOU_THRESHOLDS, MAX_DETECTIONS, RECALLS, SIZES, PhotoMatches
from esam_rt.kernels.interpolated_precision import IGNORED, RIGHT, WRONG, interpolate_precision

METRICS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)


class AveragePrecision:
    """Detections of P photos, sorted by score once for all weightings.

    Args:
        photos: Matches of each photo.
    """

    def __init__(self, photos: Sequence[PhotoMatches]) -> None:
        count = len(photos)
        score = np.concatenate([p.score for p in photos]) if photos else np.zeros(0)
        order = np.argsort(
            -score, kind="mergesort"
        )  # stable, as in pycocotools: equal scores stay in the order of the photos
        self._photo = np.repeat(np.arange(count), [len(p.score) for p in photos])[order]
        rank = np.concatenate([np.arange(len(p.score)) for p in photos]) if photos else np.zeros(0, np.int64)
        self._rank = rank[order]
        shape = len(SIZES), len(IOU_THRESHOLDS), len(score)
        self._verdict = np.full(shape, WRONG, np.uint8)
        if photos:
            self._verdict[np.concatenate([p.matched for p in photos], axis=2)[..., order]] = RIGHT
            self._verdict[np.concatenate([p.ignored for p in photos], axis=2)[..., order]] = IGNORED
        self._positives = np.array([p.positives for p in photos], np.int64).reshape(count, len(SIZES))

    def metrics(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Return ``METRICS`` in percent, float64 [B] each; NaN if there is no entity of that size.

        Args:
            weights: int64 [B, P], how often each photo counts in each of B sets.
        """
        precision = {size: self.precision(weights, size) for size in SIZES}
        recall = {size: self._recall(weights, size, MAX_DETECTIONS) for size in SIZES}
        values = [
            precision["all"],
            *(precision["all"][:, iou == IOU_THRESHOLDS] for iou in (0.5, 0.75)),
            *(precision[size] for size in SIZES[1:]),
            *(self._recall(weights, "all", limit) for limit in (1, 10)),
            *(recall[size] for size in SIZES),
        ]
        return {name: 100 * v.reshape(len(weights), -1).mean(axis=1) for name, v in zip(METRICS, values, strict=True)}

    def precision(self, weights: NDArray[np.int64], size: str = "all") -> NDArray[np.float64]:
        """Return interpolated precision float64 [B, T, R] at ``IOU_THRESHOLDS`` and ``RECALLS``.

        Args:
            weights: int64 [B, P], how often each photo counts in each of B sets.
            size: A name in ``SIZES``.
        """
        s = SIZES.index(size)
        positives = weights @ self._positives[:, s]
        out = np.zeros((len(weights), len(IOU_THRESHOLDS), len(RECALLS)))
        interpolate_precision(self._verdict[s], self._photo, np.ascontiguousarray(weights), positives, RECALLS, out)
        out[positives == 0] = np.nan
        return out

    def _recall(self, weights: NDArray[np.int64], size: str, limit: int) -> NDArray[np.float64]:
        """Recall float64 [B, T] with at most ``limit`` detections per photo."""
        s = SIZES.index(size)
        right = (self._verdict[s] == RIGHT) & (self._rank < limit)
        by_photo = np.stack([np.bincount(self._photo[row], minlength=len(self._positives)) for row in right], axis=1)
        positives = (weights @ self._positives[:, s])[:, None]
        found: NDArray[np.int64] = weights @ by_photo
        return np.where(positives > 0, found / np.maximum(positives, 1), np.nan)


def average_precision(photos: Sequence[PhotoMatches]) -> dict[str, float]:
    """Return ``METRICS`` in percent over all photos; NaN if there is no entity of that size.

    Args:
        photos: Matches of each photo.
    """
    values = AveragePrecision(photos).metrics(np.ones((1, len(photos)), np.int64))
    return {name: float(value[0]) for name, value in values.items()}
