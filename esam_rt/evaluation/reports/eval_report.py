"""report.html of an evaluation: one page, opened from disk, that needs no other file."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.evaluation.metrics.average_precision import AveragePrecision
from esam_rt.evaluation.metrics.bootstrap import Estimate
from esam_rt.evaluation.metrics.matching import IOU_THRESHOLDS, RECALLS
from esam_rt.evaluation.metrics.region_scores import RegionScores, contingency, covering
from esam_rt.evaluation.metrics.score import Scored
from esam_rt.evaluation.predictions import label_map
from esam_rt.evaluation.reports import plots
from esam_rt.evaluation.reports.formatting import shown, shown_difference, shown_range
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.evaluation.truth.rle import dense_mask
from esam_rt.evaluation.truth.true_photo import TruePhoto
from esam_rt.sinks.drawing import jpeg, shrink, tint
from esam_rt.sinks.palette import entity_colors
from esam_rt.sources.decode import read_photo
from esam_rt.stages import Stage
from esam_rt.storage.atomic import write_text

if TYPE_CHECKING:
    from esam_rt.evaluation.plan import Plan, Result

_SIDE = 640  # pixels of a picture's longer side
_GREY = 200  # of a photo that is not at hand
_CROWD = 90  # share of black in the stripes over an ignore region, of 256
_HEADLINES = {
    "AP": ("AP", "AP50", "AP75", "AR100"),
    "covering": ("covering", "covering_best", "PRI", "VI", "boundary_F"),
}
_NAMES = {
    "AP": "AP<sup>e</sup>",
    "covering_best": "covering, best annotator",
    "covering_reverse": "covering, of ours by theirs",
}
_COLUMNS = {
    "AP": ("AP", "AP50", "AP75", "AR100", "true", "found", "right_at_50", "covered_percent"),
    "covering": ("covering", "covering_best", "PRI", "VI", "boundary_F", "true", "found", "annotators"),
}


def write_report(path: Path, result: Result, record: Mapping[str, Any]) -> Path:
    """Write the page: scores, intervals, precision and recall, the worst photos beside their ground truth, all photos.

    record: what scores.json holds; what is not shown elsewhere is in a part to unfold.
    """
    scored, plan = result.scored, result.plan
    worst = scored.worst_first()[: plan.options.worst]
    parts = {
        "version": html.escape(__version__),
        "facts": "".join(_fact(*pair) for pair in _facts(result, record)),
        "tiles": "".join(_tile(name, result.metrics[name]) for name in _HEADLINES[scored.rank_by]),
        "plot": _plot(result),
        "table": _table(result),
        "protocol": html.escape(record["protocol"]),
        "worst_title": f"The worst by {_name(scored.rank_by)}" if worst else "No photo has a score",
        "worst": "\n".join(_comparison(result, i) for i in worst),
        "columns": "".join(f"<th>{_name(c)}</th>" for c in ("photo", *_COLUMNS[scored.rank_by])),
        "rows": "\n".join(_row(scored, i) for i in range(len(scored.photos))),
        "record": html.escape(json.dumps({k: v for k, v in record.items() if k != "photos"}, indent=1)),
    }
    template = resources.files(__package__).joinpath("eval_report.html").read_text("utf-8")
    # One pass: a photo whose name looks like a place of the template stays a name.
    write_text(path, re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template))
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


def _fact(key: str, value: str) -> str:
    return f"<span>{html.escape(key)} <b>{html.escape(value)}</b></span>"


def _name(metric: str) -> str:
    return _NAMES.get(metric, html.escape(metric.replace("_", " ")))


def _tile(metric: str, e: Estimate) -> str:
    return f"<div><b>{shown(metric, e.value)}</b><span>{_name(metric)}</span><i>{shown_range(metric, e)}</i></div>"


def _table(result: Result) -> str:
    head = ["", "score", "95 % interval"]
    if result.theirs:
        head += ["against", "difference", "95 % interval"]
    rows = []
    for metric, e in result.metrics.items():
        cells = [_name(metric), f"<b>{shown(metric, e.value)}</b>", shown_range(metric, e)]
        if result.theirs:
            d = result.difference[metric]
            cells += [shown(metric, result.theirs[metric].value), shown_difference(metric, d), shown_range(metric, d)]
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<thead><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr></thead><tbody>{body}</tbody>"


def _plot(result: Result) -> str:
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
    for which, style, suffix in ((scored, "", ""), (result.other, " other", " (against)")):
        if which is not None and isinstance(which.scores, AveragePrecision):
            by_iou = which.scores.precision(np.ones((1, len(which.photos)), np.int64))[0]
            curves = {f"IoU {iou:g}": by_iou[iou == IOU_THRESHOLDS][0] for iou in (0.5, 0.75)}
            curves["mean of all IoU"] = by_iou.mean(axis=0)
            lines += [(name + suffix, line, f"c{i}{style}") for i, (name, line) in enumerate(curves.items())]
    return plots.curves([line for line in lines if np.isfinite(line[1]).all()], RECALLS)


def _comparison(result: Result, index: int) -> str:
    """Photo, ground truth and what was found, side by side."""
    scored, plan = result.scored, result.plan
    photo, values = scored.photos[index], scored.values[index]
    image = _photo(plan, photo)
    found = label_map(result.predictions.detections(photo), photo.height, photo.width)
    pictures = [("photo", _data_url(shrink(image, found.astype(np.uint16), _SIDE)[0]))] if plan.files else []
    true, crowd = _true_labels(plan, photo, found)
    for title, labels, stripes in (("ground truth", true, crowd), ("found", found, None)):
        pictures.append((title, _data_url(_overlay(image, labels, stripes))))
    told = [f"{_name(k)} {shown(k, values[k])}" for k in _HEADLINES[scored.rank_by]]
    if "right_at_50" in values:
        told.append(
            f"{values['found']:g} found, {values['right_at_50']:g} of them right at IoU 0.5, {values['true']:g} true"
        )
    else:
        told.append(f"{values['found']:g} segments, {values['true']:.3g} of an annotator")
    name = html.escape(photo.name)
    figures = "".join(
        f'<figure><img loading="lazy" src="{url}" alt="{title} of {name}"><figcaption>{title}</figcaption></figure>'
        for title, url in pictures
    )
    return f'<section class="pair"><h3>{name}<span>{" · ".join(told)}</span></h3><div>{figures}</div></section>'


def _photo(plan: Plan, photo: TruePhoto) -> NDArray[np.uint8]:
    """The photo, or grey where it is not at hand."""
    file = plan.files.get(photo.image_id)
    if file is None:
        return np.full((photo.height, photo.width, 3), _GREY, np.uint8)
    return read_photo(file.path, photo.name, plan.options.run.max_pixels).image_hwc_rgb


def _true_labels(
    plan: Plan, photo: TruePhoto, found: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Ground truth as a label map, small entities on top, and its ignore regions; of several annotators, the one who
    agrees best with what was found."""
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
    """The photo with its segments tinted, and dark stripes over ignore regions; small enough for the page."""
    numbers, compact = np.unique(labels, return_inverse=True)
    compact = compact.reshape(labels.shape) + (numbers[0] != 0)  # 0 stays: no segment
    count = int(compact.max())
    entities = EntityMap.from_labels(compact, np.zeros(count), np.full(count, Stage.MMG))
    if stripes is not None:
        y, x = np.nonzero(stripes)
        on = (x + y) // 6 % 2 == 0
        image = image.copy()
        image[y[on], x[on]] = image[y[on], x[on]].astype(np.uint16) * (256 - _CROWD) >> 8
    small, small_labels = shrink(image, entities.labels, _SIDE)
    return tint(small, small_labels, entity_colors(entities))


def _data_url(image: NDArray[np.uint8]) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(image, quality=82)).decode("ascii")


def _row(scored: Scored, index: int) -> str:
    values = scored.values[index]
    cells = [f"<td>{html.escape(scored.photos[index].name)}</td>"]
    for column in _COLUMNS[scored.rank_by]:
        value = values[column]
        whole = column in ("true", "found", "right_at_50", "annotators")
        text = f"{value:g}" if whole and value is not None else shown(column, value)
        cells.append(f'<td data-value="{-1 if value is None else value}">{text}</td>')
    return f"<tr>{''.join(cells)}</tr>"
