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
from esam_rt.sources.photo_files import PhotoFile

SCORES, REPORT, PROGRAM = "scores.json", "report.html", "esam-rt eval"


@dataclass(frozen=True)
class EvalOptions:
    """truth: COCO's JSON, or a folder of BSDS500's. pngs: of panoptic ground truth. images: folder of the photos.
    predictions: finished results; without them, `run` says how the photos are segmented. against: other results to
    compare with. limit: first so many photos, by id. partial: score the photos there are. worst: photos shown in the
    report."""

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
    """What is to be scored. files: photos on disk by image id, also those beyond --limit; empty without --images."""

    options: EvalOptions
    truth: Truth
    photos: Sequence[TruePhoto]
    files: Mapping[int, PhotoFile]


@dataclass(frozen=True, eq=False)
class Result:
    """metrics: with intervals. theirs, difference: with --against, of the other results and ours minus theirs."""

    plan: Plan
    predictions: Predictions
    scored: Scored
    metrics: Mapping[str, Estimate]
    theirs: Mapping[str, Estimate] = field(default_factory=dict)
    difference: Mapping[str, Estimate] = field(default_factory=dict)
    other: Scored | None = None

    def empty(self) -> int:
        """Photos in which nothing was found."""
        return sum(not self.predictions.detections(photo) for photo in self.scored.photos)
