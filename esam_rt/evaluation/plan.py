"""Options, plan and result of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from esam_rt.evaluation.metrics.bootstrap import Estimate
from esam_rt.evaluation.metrics.score import Scored
from esam_rt.evaluation.predictions import Predictions
from esam_rt.evaluation.truth.ground_truth import Truth
from esam_rt.evaluation.truth.true_photo import TruePhoto
from esam_rt.run.run_options import RunOptions
from esam_rt.sources.photo_search import PhotoFile

SCORES, REPORT, PROGRAM = "scores.json", "report.html", "esam-rt eval"


@dataclass(frozen=True)
class EvalOptions:
    """Options of an evaluation.

    Attributes:
        truth: JSON file of COCO, or folder of BSDS500.
        out: Folder for scores.json and report.html.
        images: Folder of the photos; None with ``predictions``, or to take ``truth/images`` of BSDS500.
        pngs: Folder of PNG files of panoptic ground truth; None for the folder beside the JSON with its name.
        predictions: Finished results. Without them ``run`` says how photos are segmented.
        against: Other results over the same photos, the baseline of the comparison.
        run: Model, settings and execution.
        limit: Number of photos, the lowest ids first; None for all.
        partial: Score the available photos even if some are missing.
        resamples: Bootstrap resamples for the intervals.
        seed: Seed of the bootstrap.
        worst: Number of photos that the report shows.
        resume: Continue an earlier evaluation in ``out``.
        overwrite: Remove an earlier evaluation in ``out``.
    """

    truth: Path
    out: Path
    images: Path | None = None
    pngs: Path | None = None
    predictions: Path | None = None
    against: Path | None = None
    run: RunOptions = field(default_factory=lambda: RunOptions((), Path()))
    limit: int | None = None
    partial: bool = False
    resamples: int = 1000
    seed: int = 0
    worst: int = 12
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """Photos to score.

    Attributes:
        options: Options of the evaluation.
        truth: Ground truth.
        photos: Photos to score, in the order of their ids.
        files: Photos on disk by image id, including photos beyond ``limit``; empty without ``images``.
    """

    options: EvalOptions
    truth: Truth
    photos: Sequence[TruePhoto]
    files: Mapping[int, PhotoFile]


@dataclass(frozen=True, eq=False)
class Result:
    """Scores of an evaluation.

    Attributes:
        plan: The evaluation.
        predictions: The results that were scored.
        scored: Scores by photo.
        metrics: Metrics with intervals.
        baseline: Metrics of the results in ``against``; empty without them.
        difference: ``metrics`` minus ``baseline`` over the same photos, with intervals; empty without them.
        baseline_scored: Scores by photo of the results in ``against``; None without them.
    """

    plan: Plan
    predictions: Predictions
    scored: Scored
    metrics: Mapping[str, Estimate]
    baseline: Mapping[str, Estimate] = field(default_factory=dict)
    difference: Mapping[str, Estimate] = field(default_factory=dict)
    baseline_scored: Scored | None = None

    def empty(self) -> int:
        """Return the number of photos in which nothing was found."""
        return sum(not self.predictions.detections(photo) for photo in self.scored.photos)
