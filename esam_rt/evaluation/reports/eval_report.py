"""report.html of an evaluation: one page that needs no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.evaluation.metrics.average_precision import AveragePrecision
from esam_rt.evaluation.metrics.matching import IOU_THRESHOLDS, RECALLS
from esam_rt.evaluation.metrics.region_scores import RegionScores, contingency, covering
from esam_rt.evaluation.metrics.score import Scored
from esam_rt.evaluation.predictions import label_map
from esam_rt.evaluation.reports import plots
from esam_rt.evaluation.reports.formatting import format_difference, format_interval, format_score
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.evaluation.truth.true_photo import TruePhoto
from esam_rt.rle import dense_mask
from esam_rt.sinks.drawing import jpeg, shrink
from esam_rt.sinks.html_page import render
from esam_rt.sinks.overlays import draw_overlay
from esam_rt.sources.decode import read_photo
from esam_rt.stages import Stage
from esam_rt.storage.atomic import write_text

if TYPE_CHECKING:
    from esam_rt.evaluation.plan import Plan, Result

_SIDE = 640  # pixels of a picture's longer side
_GREY = 200  # value of every pixel of a photo that is not available
_CROWD = 90  # share of black in the stripes over an ignore region, of 256
_HEADLINES = {
    "AP": ("AP", "AP50", "AP75", "AR100"),
    "covering": ("covering", "covering_best", "PRI", "VI", "boundary_F"),
}
_NAMES = {
    "AP": Markup("AP<sup>e</sup>"),
    "covering_best": "covering, best annotator",
    "covering_reverse": "covering, of the result by the annotators",
}
_COLUMNS = {
    "AP": ("AP", "AP50", "AP75", "AR100", "true", "found", "right_at_50", "covered_percent"),
    "covering": ("covering", "covering_best", "PRI", "VI", "boundary_F", "true", "found", "annotators"),
}
_COUNTS = ("true", "found", "right_at_50", "annotators")  # whole numbers


def write_report(path: Path, result: Result, record: Mapping[str, Any]) -> Path:
    """Write the page: scores, intervals, precision and recall, the worst photos beside their ground truth, all photos.

    Args:
        path: File to write.
        result: The evaluation.
        record: Content of scores.json. The page shows all of it but the photos in a part to unfold.

    Returns:
        ``path``.
    """
    scored, plan = result.scored, result.plan
    worst = scored.worst_first()[: plan.options.worst]
    details = {key: value for key, value in record.items() if key != "photos"}
    template = resources.files(__package__).joinpath("eval_report.html").read_text("utf-8")
    page = render(
        template,
        version=__version__,
        facts=_facts(result, record),
        tiles=[_score(result, metric) for metric in _HEADLINES[scored.rank_by]],
        plot=_plot(result),
        titles=["", "score", "95 % interval", *(["against", "difference", "95 % interval"] if result.baseline else [])],
        scores=[_score(result, metric) for metric in result.metrics],
        record=record,
        worst_title=Markup("The worst by {}").format(_name(scored.rank_by)) if worst else "No photo has a score",
        worst=[_comparison(result, index) for index in worst],
        columns=[_name(column) for column in ("photo", *_COLUMNS[scored.rank_by])],
        rows=[_row(scored, index) for index in range(len(scored.photos))],
        details=json.dumps(details, indent=1),
    )
    write_text(path, page)
    return path


def _facts(result: Result, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    options, run = result.plan.options, record["run"]
    facts = [("ground truth", options.truth.name), ("photos", f"{len(result.scored.photos):,}")]
    if run:
        facts += [("model", run["model"]["name"]), ("method", run["method"]), ("device", run["device"])]
    else:
        facts.append(("predictions", str(options.predictions)))
    if options.against:
        facts.append(("against", str(options.against)))
    if result.scored.overlapping:
        facts.append(("overlapping masks in", f"{result.scored.overlapping:,} photos"))
    return facts


def _name(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def _score(result: Result, metric: str) -> dict[str, Any]:
    """One metric as text: name, value, interval, and the cells of its row after the value."""
    e = result.metrics[metric]
    interval = format_interval(metric, e)
    cells = [interval]
    if result.baseline:
        d = result.difference[metric]
        cells += [format_score(metric, result.baseline[metric].value), format_difference(metric, d)]
        cells.append(format_interval(metric, d))
    return {"name": _name(metric), "value": format_score(metric, e.value), "interval": interval, "cells": cells}


def _plot(result: Result) -> Markup:
    scored = result.scored
    if isinstance(scored.scores, RegionScores):
        sides = ("boundary_recall", "boundary_precision")
        points = []
        for photo, values in zip(scored.photos, scored.values, strict=True):
            recall, precision = (values[side] or 0 for side in sides)
            points.append((recall, precision, photo.name))
        recall, precision = (result.metrics[side].value or 0 for side in sides)
        return plots.scatter(points, (recall, precision))
    lines = []
    for each, style, suffix in ((scored, "", ""), (result.baseline_scored, " other", " (against)")):
        if each is not None and isinstance(each.scores, AveragePrecision):
            by_iou = each.scores.precision(np.ones((1, len(each.photos)), np.int64))[0]
            curves = {f"IoU {iou:g}": by_iou[iou == IOU_THRESHOLDS][0] for iou in (0.5, 0.75)}
            curves["mean of all IoU"] = by_iou.mean(axis=0)
            lines += [(name + suffix, line, f"c{i}{style}") for i, (name, line) in enumerate(curves.items())]
    return plots.curves([line for line in lines if np.isfinite(line[1]).all()], RECALLS)


def _comparison(result: Result, index: int) -> dict[str, Any]:
    """Photo, ground truth and result side by side."""
    scored, plan = result.scored, result.plan
    photo, values = scored.photos[index], scored.values[index]
    image = _photo(plan, photo)
    found = label_map(result.predictions.detections(photo), photo.height, photo.width)
    pictures = [("photo", _data_url(shrink(image, found.astype(np.uint16), _SIDE)[0]))] if plan.files else []
    true, crowd = _true_labels(plan, photo, found)
    for title, labels, stripes in (("ground truth", true, crowd), ("found", found, None)):
        pictures.append((title, _data_url(_overlay(image, labels, stripes))))
    scores = [Markup("{} {}").format(_name(k), format_score(k, values[k])) for k in _HEADLINES[scored.rank_by]]
    if "right_at_50" in values:
        counts = f"{values['found']:g} found, {values['right_at_50']:g} right at IoU 0.5, {values['true']:g} true"
    else:
        counts = f"{values['found']:g} segments, {values['true']:.3g} per annotator"
    return {"name": photo.name, "scores": [*scores, counts], "pictures": pictures}


def _photo(plan: Plan, photo: TruePhoto) -> NDArray[np.uint8]:
    """The photo, or grey if its file is not available."""
    file = plan.files.get(photo.image_id)
    if file is None:
        return np.full((photo.height, photo.width, 3), _GREY, np.uint8)
    run = plan.options.run
    return read_photo(file.path, photo.name, run.max_pixels, run.sample_range).image_hwc_rgb


def _true_labels(
    plan: Plan, photo: TruePhoto, found: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Ground truth as a label map with small entities on top, and its ignore regions.

    With several annotators, the map of the one who agrees best with the result.
    """
    if not isinstance(plan.truth, MaskTruth):
        maps = plan.truth.annotated(photo)
        return max(maps, key=lambda labels: covering(contingency(labels, found))), None
    entities = plan.truth.entities(photo)
    small_last = sorted((e for e in entities if not e["iscrowd"]), key=lambda e: -e["area"])
    labels = np.zeros((photo.height, photo.width), np.int64)
    for number, e in enumerate(small_last, 1):
        labels[dense_mask(e["segmentation"])] = number
    crowds = [e["segmentation"] for e in entities if e["iscrowd"]]
    return labels, dense_mask(coco_mask.merge(crowds)) if crowds else None


def _overlay(
    image: NDArray[np.uint8], labels: NDArray[np.int64], stripes: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """The photo, scaled for the page, with its segments tinted and dark stripes over ignore regions."""
    numbers, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape) + (numbers[0] != 0)  # 0 stays 0: no segment
    count = int(compact.max())
    entities = EntityMap.from_labels(compact, np.zeros(count), np.full(count, Stage.MMG))
    if stripes is not None:
        y, x = np.nonzero(stripes)
        on = (x + y) // 6 % 2 == 0
        image = image.copy()
        image[y[on], x[on]] = image[y[on], x[on]].astype(np.uint16) * (256 - _CROWD) >> 8
    return draw_overlay(image, entities, max_side=_SIDE)


def _data_url(image: NDArray[np.uint8]) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(image, quality=82)).decode("ascii")


def _row(scored: Scored, index: int) -> tuple[str, list[tuple[float, str]]]:
    """Name of a photo, and for each column the value to sort by and its text."""
    cells = []
    for column in _COLUMNS[scored.rank_by]:
        value = scored.values[index][column]
        text = f"{value:g}" if column in _COUNTS and value is not None else format_score(column, value)
        cells.append((-1 if value is None else value, text))
    return scored.photos[index].name, cells
