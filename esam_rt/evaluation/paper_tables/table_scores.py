"""Scores of all rows of a table, with intervals and with gains over the first row of each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt.evaluation.metrics.bootstrap import Estimate, differences, estimates, resamples
from esam_rt.evaluation.metrics.score import Scored, score
from esam_rt.evaluation.paper_tables.table_journal import read_photos, row_annotations
from esam_rt.evaluation.paper_tables.table_rows import Row, base_row
from esam_rt.evaluation.plan import Plan
from esam_rt.evaluation.predictions import Predictions
from esam_rt.evaluation.truth.bsds_truth import RegionTruth

STAGES = ("encoder", "decoder", "mmg", "emr", "usr", "upsampling", "total")
COLUMNS = {"coco": ("AP", "AP50", "AP75"), "bsds": ("covering", "covering_best", "PRI", "VI", "boundary_F")}


@dataclass(frozen=True, eq=False)
class TableResult:
    """Scores of a table.

    Attributes:
        plan: The evaluation.
        rows: The rows, in order.
        columns: Names of the metrics to show, the most important first.
        metrics: Metrics with intervals, by row.
        gain: First metric of a row minus that of the first row of its group, over the same photos, by row.
        entities: Mean number of entities in a photo, by row.
        seconds: Median seconds of a photo by stage of E-SAM; empty unless the table is timed.
    """

    plan: Plan
    rows: Sequence[Row]
    columns: Sequence[str]
    metrics: Mapping[str, Mapping[str, Estimate]]
    gain: Mapping[str, Estimate]
    entities: Mapping[str, float]
    seconds: Mapping[str, float]


def score_table(plan: Plan, rows: Sequence[Row], journal: Path) -> TableResult:
    """Score the photos of a journal.

    Args:
        plan: The evaluation. Photos of the journal that it leaves out do not count.
        rows: The rows of the table.
        journal: Journal with every photo of the plan.

    Raises:
        InputError: The journal cannot be used.
    """
    o = plan.options
    size = {photo.image_id: (photo.height, photo.width) for photo in plan.photos}
    found: dict[str, dict[int, list[dict[str, Any]]]] = {row.name: {} for row in rows}
    times_s: list[Mapping[str, float]] = []
    for image_id, record in read_photos(journal, rows):
        if image_id in size:  # an earlier run may have had a larger --limit
            times_s.append(record.get("times_s", {}))
            for name, each in row_annotations(record, *size[image_id]).items():
                found[name][image_id] = each
    weights = resamples(len(plan.photos), o.resamples, o.seed)
    scored: dict[str, Scored] = {}
    for row in rows:
        predictions = Predictions(plan.photos, found[row.name])
        scored[row.name] = score(plan.truth, predictions, plan.photos, lambda photo: None)
    columns = COLUMNS["bsds" if isinstance(plan.truth, RegionTruth) else "coco"]

    def gain(row: Row) -> Estimate:
        candidate, baseline = scored[row.name].scores, scored[base_row(row, rows).name].scores
        return differences(candidate, baseline, weights)[columns[0]]

    return TableResult(
        plan,
        rows,
        columns,
        metrics={name: estimates(s.scores, weights) for name, s in scored.items()},
        gain={row.name: gain(row) for row in rows},
        entities={name: float(np.mean([len(d) for d in each.values()])) for name, each in found.items()},
        seconds={stage: float(np.median([t[stage] for t in times_s])) for stage in STAGES if stage in times_s[0]},
    )
