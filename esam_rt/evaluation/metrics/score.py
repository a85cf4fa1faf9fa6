"""Scores predictions against ground truth, photo by photo."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from esam_rt.evaluation.metrics.average_precision import AveragePrecision, average_precision
from esam_rt.evaluation.metrics.matching import PhotoMatches, match_photo
from esam_rt.evaluation.metrics.region_scores import PhotoRegions, RegionScores, compare
from esam_rt.evaluation.predictions import Predictions
from esam_rt.evaluation.truth.bsds_truth import RegionTruth
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.evaluation.truth.ground_truth import Truth
from esam_rt.evaluation.truth.true_photo import TruePhoto


@dataclass(frozen=True, eq=False)
class Scored:
    """Photos and their scores.

    Attributes:
        scores: Scores of all photos, for any weights.
        photos: The photos.
        values: Metrics and counts of each photo; None for undefined metrics.
        rank_by: Metric that ranks the photos.
        overlapping: Number of photos whose detections overlap.
    """

    scores: AveragePrecision | RegionScores
    photos: Sequence[TruePhoto]
    values: Sequence[Mapping[str, float | None]]
    rank_by: str
    overlapping: int

    def worst_first(self) -> list[int]:
        """Return indices of the photos with a score, the worst first. On ties, photos with more entities come first."""
        known = {i: v[self.rank_by] for i, v in enumerate(self.values)}
        ranks = {i: round(value, 6) for i, value in known.items() if value is not None}
        return sorted(ranks, key=lambda i: (ranks[i], -(self.values[i]["true"] or 0)))


def score(
    truth: Truth, predictions: Predictions, photos: Sequence[TruePhoto], on_progress: Callable[[TruePhoto], None]
) -> Scored:
    """Score predictions.

    Args:
        truth: Ground truth: masks or label maps.
        predictions: Results for all of ``photos``.
        photos: Photos to score.
        on_progress: Called after each photo.

    Raises:
        InputError: The ground truth of a photo cannot be used.
    """
    if isinstance(truth, MaskTruth):
        return _masks(truth, predictions, photos, on_progress)
    return _regions(truth, predictions, photos, on_progress)


def _masks(
    truth: MaskTruth, predictions: Predictions, photos: Sequence[TruePhoto], on_progress: Callable[[TruePhoto], None]
) -> Scored:
    matches: list[PhotoMatches] = []
    values: list[dict[str, float | None]] = []
    overlapping = 0
    for photo in photos:
        found = predictions.detections(photo)
        matches.append(match_photo(truth.entities(photo), found))
        covered, overlap = _coverage([d["segmentation"] for d in found], photo)
        overlapping += overlap
        values.append(_photo_values(matches[-1]) | {"covered_percent": covered})
        on_progress(photo)
    return Scored(AveragePrecision(matches), photos, values, "AP", overlapping)


def _photo_values(matches: PhotoMatches) -> dict[str, float | None]:
    metrics = average_precision([matches])
    chosen = {name: _defined(metrics[name]) for name in ("AP", "AP50", "AP75", "AR100")}
    return {**chosen, "true": int(matches.positives[0]), "found": matches.detections, "right_at_50": matches.found()}


def _coverage(masks: list[dict[str, Any]], photo: TruePhoto) -> tuple[float, bool]:
    """Percent of the photo that masks cover, and True if masks overlap."""
    if not masks:
        return 0.0, False
    # Areas one by one: pycocotools 2.0.11 fails on lists of more than 255 masks.
    union, total = float(coco_mask.area(coco_mask.merge(masks))), float(sum(coco_mask.area(mask) for mask in masks))
    return 100 * union / (photo.width * photo.height), total > union


def _regions(
    truth: RegionTruth, predictions: Predictions, photos: Sequence[TruePhoto], on_progress: Callable[[TruePhoto], None]
) -> Scored:
    compared: list[PhotoRegions] = []
    values: list[dict[str, float | None]] = []
    overlapping = 0
    for photo in photos:
        overlapping += _coverage([d["segmentation"] for d in predictions.detections(photo)], photo)[1]
        result = compare(predictions.labels(photo), truth.annotated(photo))
        compared.append(result)
        metrics = RegionScores([result]).metrics(np.ones((1, 1), np.int64))
        counts = {"true": result.true_segments, "found": result.segments, "annotators": result.annotators}
        values.append({**{name: float(value[0]) for name, value in metrics.items()}, **counts})
        on_progress(photo)
    return Scored(RegionScores(compared), photos, values, "covering", overlapping)


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
