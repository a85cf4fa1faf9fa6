"""Many rows of settings over the same photos, each photo encoded and decoded once: the tables of E-SAM's paper."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt._version import __version__
from esam_rt.errors import InputError
from esam_rt.evaluation.metrics.bootstrap import Estimate, differences, estimates, resamples
from esam_rt.evaluation.metrics.score import Scored, score
from esam_rt.evaluation.paper_tables.decode_cache import CachingEngines, CachingSuperpixels
from esam_rt.evaluation.paper_tables.table_rows import PAPER_SECONDS, Row
from esam_rt.evaluation.plan import Plan
from esam_rt.evaluation.predictions import Predictions
from esam_rt.evaluation.reports.formatting import shown, shown_difference, shown_range
from esam_rt.evaluation.reports.interval_plot import forest
from esam_rt.evaluation.truth.bsds_truth import RegionTruth
from esam_rt.evaluation.truth.true_photo import TruePhoto
from esam_rt.method.superpixels import SuperpixelMap
from esam_rt.run.output_folder import OutputFolder
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.predictor import Sam
from esam_rt.segmenter import EntitySegmenter
from esam_rt.settings import Settings
from esam_rt.sources.decode import read_photo
from esam_rt.storage.atomic import write_json, write_text
from esam_rt.storage.jsonl import append_line, read_lines
from esam_rt.storage.provenance import utc_now
from esam_rt.tracing import Trace

TABLE, MARKDOWN, PLOT, JOURNAL = "table.json", "table.md", "table.svg", "rows.jsonl"
OWNED = (JOURNAL, MARKDOWN, PLOT, TABLE)
PROGRAM = "esam-rt eval --table"
STAGES = ("encoder", "decoder", "mmg", "emr", "usr", "upsampling", "total")
# Of a table that is resumed.
FIXED = ("model", "engines", "ground_truth", "photo_list_sha256", "settings", "timed", "rows")
COLUMNS = {"coco": ("AP", "AP50", "AP75"), "bsds": ("covering", "covering_best", "PRI", "VI", "boundary_F")}
GAIN_INTERVAL = "its 95 % interval"
PAPER_METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True, eq=False)
class TableResult:
    """metrics: of each row, with intervals. gain: of each row, its first metric minus that of the first row of its
    group, in pairs. entities: mean of a photo. seconds: of E-SAM's stages, median over photos; empty unless timed."""

    plan: Plan
    rows: Sequence[Row]
    columns: Sequence[str]
    metrics: Mapping[str, Mapping[str, Estimate]]
    gain: Mapping[str, Estimate]
    entities: Mapping[str, float]
    seconds: Mapping[str, float]


class RowSegmenter(EntitySegmenter):
    """Shares superpixels with the other rows."""

    def __init__(self, sam: Sam, settings: Settings, method: str, pixels: CachingSuperpixels) -> None:
        super().__init__(sam, settings=settings, method=method)
        self._shared = pixels

    def _superpixels(self, image_hwc_rgb: NDArray[np.uint8], geometry: Geometry, trace: Trace) -> SuperpixelMap:
        with trace.span("superpixels"):
            return self._shared(image_hwc_rgb, geometry, self.settings.superpixels)


def run_table(
    plan: Plan,
    rows: Sequence[Row],
    sam: Sam,
    title: str,
    done: Callable[[TruePhoto], None],
    segmenter_of: Callable[[Row], type[RowSegmenter]] = lambda row: RowSegmenter,
    timed: bool = False,
) -> TableResult:
    """Segment every photo once for each row, score, and write TABLE, MARKDOWN and PLOT into the folder of the plan.

    A photo that was finished before is not segmented again with --resume. `done` is told of each photo. segmenter_of:
    for rows that are more than settings. timed: segment each photo once more, by E-SAM with the settings given and
    nothing remembered, for the seconds of its stages.
    Errors: SettingsError for rows that cannot be; InputError for a photo or a journal that cannot be read.
    """
    o = plan.options
    execution = o.run.segmenter.execution
    header = {
        "program": PROGRAM,
        "esam_rt": __version__,
        "title": title,
        "model": {
            "name": sam.row.name,
            "checkpoint_sha256": sam.checkpoint_sha256,
            "default_thresholds": sam.row.default_thresholds(),
        },
        "engines": {
            "backend": execution.backend,
            "device": execution.device,
            "precision": execution.precision,
        },
        "ground_truth": "/".join(o.truth.resolve().parts[-2:]),
        "photos": len(plan.photos),
        "photo_list_sha256": _photo_list_sha256(plan),
        "settings": o.run.segmenter.settings.to_dict(),
        "timed": timed,
        "rows": {row.name: {"method": row.method, "changes": dict(row.changes)} for row in rows},
    }
    cache, pixels = CachingEngines(sam.engines), CachingSuperpixels()
    cached = Sam(sam.row, cache.engines(), sam.checkpoint_sha256)
    with ExitStack() as stack:
        segmenters = {  # before _begin: rows that cannot be must not cost an earlier table
            row.name: stack.enter_context(
                segmenter_of(row)(cached, o.run.segmenter.settings.with_overrides(row.changes), row.method, pixels)
            )
            for row in rows
        }
        alone = stack.enter_context(EntitySegmenter(sam, settings=o.run.segmenter.settings)) if timed else None
        _begin(plan, header)
        journal = o.out / JOURNAL
        finished = {image_id for image_id, _ in _records(journal, rows)}
        for photo in plan.photos:
            if photo.image_id not in finished:
                image = read_photo(plan.files[photo.image_id].path, photo.name, o.run.max_pixels).image_hwc_rgb
                cache.clear()
                pixels.clear()
                found = {name: segment(image).to_coco(photo.image_id) for name, segment in segmenters.items()}
                start = time.perf_counter()
                times_s = {**alone(image).times_s, "total": time.perf_counter() - start} if alone else {}
                append_line(journal, json.dumps({"image_id": photo.image_id, "found": _few(found), "times_s": times_s}))
            done(photo)
    result = _score(plan, rows)
    _write(result, header)
    return result


def _photo_list_sha256(plan: Plan) -> str:
    """Of names, sizes and bytes on disk of all photos: what the ids in the journal stand for."""
    listed = [
        [p.image_id, p.name, p.width, p.height, plan.files[p.image_id].path.stat().st_size]
        for p in plan.truth.photos
        if p.image_id in plan.files
    ]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _begin(plan: Plan, header: Mapping[str, Any]) -> None:
    """An earlier table in the folder is gone on with, removed or refused."""
    o = plan.options
    folder = OutputFolder(o.out, OWNED, record=TABLE, program=PROGRAM, kind="table", journal=JOURNAL)
    earlier = folder.choose(o.resume, o.overwrite)
    if earlier is not None and o.overwrite:
        folder.clear()
    elif earlier is not None:
        folder.check_same(earlier, header, FIXED)
        folder.mend()
    folder.write_record(header)


def _few(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[list[Any]]]:
    """Of COCO annotations the runs of the mask and the score."""
    return {name: [[d["segmentation"]["counts"], d["score"]] for d in each] for name, each in found.items()}


def _records(journal: Path, rows: Sequence[Row]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a journal by image id. InputError for one that a table of these rows does not write."""
    seen: set[int] = set()
    for number, line in enumerate(read_lines(journal), start=1):
        try:
            record = json.loads(line)
            image_id, found = int(record["image_id"]), set(record["found"])
        except (ValueError, KeyError, TypeError) as e:
            raise _unusable(journal, number, "is none of esam-rt") from e
        if image_id in seen:
            raise _unusable(journal, number, f"has photo {image_id} again")
        if found != {row.name for row in rows}:
            raise _unusable(journal, number, f"has the rows {', '.join(map(repr, sorted(found)))}")
        seen.add(image_id)
        yield image_id, record


def _unusable(journal: Path, number: int, why: str) -> InputError:
    return InputError(
        f"{journal}: line {number} {why}; expected each photo once, with the rows of this table. Start anew with "
        "--overwrite or another --out."
    )


def _score(plan: Plan, rows: Sequence[Row]) -> TableResult:
    o = plan.options
    size = {photo.image_id: [photo.height, photo.width] for photo in plan.photos}
    found: dict[str, dict[int, list[dict[str, Any]]]] = {row.name: {} for row in rows}
    times_s: list[Mapping[str, float]] = []
    for image_id, record in _records(o.out / JOURNAL, rows):
        if image_id not in size:  # done before, with a larger --limit
            continue
        times_s.append(record.get("times_s", {}))
        for name, few in record["found"].items():
            masks = [{"size": size[image_id], "counts": counts} for counts, _ in few]
            found[name][image_id] = [
                {"segmentation": mask, "score": score_} for mask, (_, score_) in zip(masks, few, strict=True)
            ]
    weights = resamples(len(plan.photos), o.resamples, o.seed)
    scored: dict[str, Scored] = {}
    for row in rows:
        predictions = Predictions(plan.photos, found[row.name])
        scored[row.name] = score(plan.truth, predictions, plan.photos, lambda photo: None)
    columns = COLUMNS["bsds" if isinstance(plan.truth, RegionTruth) else "coco"]
    return TableResult(
        plan,
        rows,
        columns,
        {name: estimates(s.scores, weights) for name, s in scored.items()},
        {
            row.name: differences(scored[row.name].scores, scored[_base(row, rows).name].scores, weights)[columns[0]]
            for row in rows
        },
        {name: float(np.mean([len(d) for d in each.values()])) for name, each in found.items()},
        {stage: float(np.median([t[stage] for t in times_s])) for stage in STAGES if stage in times_s[0]},
    )


def _base(row: Row, rows: Sequence[Row]) -> Row:
    """The first row of a row's group, with which it is compared."""
    return next(other for other in rows if other.group == row.group)


def paper_figures(row: Row, model: str) -> dict[str, float]:
    """AP^e, and where known AP50 and AP75, of the paper for this row and backbone."""
    return dict(zip(PAPER_METRICS, row.paper.get(model, ()), strict=False))


def _write(result: TableResult, header: Mapping[str, Any]) -> None:
    out, model = result.plan.options.out, header["model"]["name"]
    record = {
        **header,
        "created": utc_now(),
        "bootstrap": {"resamples": result.plan.options.resamples, "seed": result.plan.options.seed, "level": 0.95},
        "results": {
            row.name: {
                "metrics": {name: asdict(e) for name, e in result.metrics[row.name].items()},
                "gain": asdict(result.gain[row.name]),
                "entities": result.entities[row.name],
                "paper": paper_figures(row, model),
            }
            for row in result.rows
        },
        "seconds": {**result.seconds},
        "paper_seconds": {**PAPER_SECONDS.get(model, {})} if result.seconds else {},
    }
    write_text(out / MARKDOWN, markdown(result, model))
    write_text(out / PLOT, plot(result, header["title"]))
    write_json(out / TABLE, record)


def cells(result: TableResult, row: Row, model: str) -> dict[str, str]:
    """What a printed table says of a row, by column: the first metric with its interval, its gain on the first row of
    its group with that of the pairs, the others, entities a photo, and the paper's figures."""
    first, *others = result.columns
    metrics, gain = result.metrics[row.name], result.gain[row.name]
    is_base = row is _base(row, result.rows)
    gains = f"on {result.rows[0].name}" if len({r.group for r in result.rows}) == 1 else "gain"
    return {
        "row": row.name,
        first: shown(first, metrics[first].value),
        "95 % interval": shown_range(first, metrics[first]),
        gains: "" if is_base else shown_difference(first, gain),
        GAIN_INTERVAL: "" if is_base else shown_range(first, gain),
        **{name: shown(name, metrics[name].value) for name in others},
        "entities": f"{result.entities[row.name]:.1f}",
        "paper": " / ".join(f"{value:g}" for value in paper_figures(row, model).values()),
    }


def filled(result: TableResult, model: str) -> list[dict[str, str]]:
    """The cells of all rows, without columns that are empty in each."""
    lines = [cells(result, row, model) for row in result.rows]
    return [{title: text for title, text in line.items() if any(o[title] for o in lines)} for line in lines]


def markdown(result: TableResult, model: str) -> str:
    """The table."""
    lines = filled(result, model)
    rows = [list(lines[0]), ["---"] * len(lines[0]), *(list(line.values()) for line in lines)]
    if result.seconds:
        rows += [
            [],
            ["seconds (Table 5)", "", "paper"],
            ["---"] * 3,
            *([*line.values()] for line in timing(result, model)),
        ]
    return "".join(f"| {' | '.join(row)} |\n" if row else "\n" for row in rows)


def timing(result: TableResult, model: str) -> list[dict[str, str]]:
    """The paper's Table 5: stage, our seconds, the paper's."""
    paper = PAPER_SECONDS.get(model, {})
    return [
        {"stage": stage, "seconds": f"{s:.3f}", "paper": f"{paper[stage]:.2f}" if stage in paper else ""}
        for stage, s in result.seconds.items()
    ]


def plot(result: TableResult, title: str) -> str:
    """The first metric of every row with its interval, as SVG."""
    metric = result.columns[0]
    return forest(title, metric, [(row.name, row.group, result.metrics[row.name][metric]) for row in result.rows])
