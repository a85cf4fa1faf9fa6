"""Runs many rows of settings over the same photos: the tables of E-SAM's paper."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from esam_rt._version import __version__
from esam_rt.evaluation.paper_tables.decode_cache import CachingSam, CachingSuperpixels
from esam_rt.evaluation.paper_tables.table_journal import append_photo, read_photos
from esam_rt.evaluation.paper_tables.table_rows import PAPER_SECONDS, Row, paper_figures
from esam_rt.evaluation.paper_tables.table_scores import TableResult, score_table
from esam_rt.evaluation.paper_tables.table_text import markdown, plot
from esam_rt.evaluation.plan import Plan
from esam_rt.evaluation.truth.true_photo import TruePhoto
from esam_rt.run.output_folder import OutputFolder
from esam_rt.sam.predictor import Sam
from esam_rt.segmenter import EntitySegmenter
from esam_rt.sources.decode import read_photo
from esam_rt.storage.atomic import write_json, write_text
from esam_rt.storage.provenance import utc_now

TABLE, MARKDOWN, PLOT, JOURNAL = "table.json", "table.md", "table.svg", "rows.jsonl"
OWNED = (JOURNAL, MARKDOWN, PLOT, TABLE)
PROGRAM = "esam-rt eval --table"
# A resumed table must agree with the earlier one in these keys.
FIXED = ("model", "engines", "ground_truth", "photo_list_sha256", "settings", "timed", "rows")


def run_table(
    plan: Plan,
    rows: Sequence[Row],
    sam: Sam,
    title: str,
    on_progress: Callable[[TruePhoto], None],
    segmenter_class: Callable[[Row], type[EntitySegmenter]] = lambda row: EntitySegmenter,
    timed: bool = False,
) -> TableResult:
    """Segment every photo once for each row, score, and write ``TABLE``, ``MARKDOWN`` and ``PLOT``.

    With ``--resume``, photos that were finished before are not segmented again.

    Args:
        plan: Photos, ground truth and options.
        rows: The rows of the table.
        sam: The model. It encodes each photo once and decodes each prompt once.
        title: Heading of the plot.
        on_progress: Called after each photo.
        segmenter_class: Returns the class that segments a row, for rows that are more than settings.
        timed: Segment each photo once more with the given settings and nothing remembered, to measure the stages.

    Returns:
        Scores of all rows.

    Raises:
        SettingsError: A row has impossible settings, or the folder holds something else.
        InputError: A photo or the journal cannot be read.
    """
    o = plan.options
    settings, journal = o.run.segmenter.settings, o.out / JOURNAL
    header = _header(plan, rows, sam, title, timed)
    cached, pixels = CachingSam(sam), CachingSuperpixels()
    with ExitStack() as stack:
        segmenters = {  # before _begin: a row with impossible settings must not remove an earlier table
            row.name: stack.enter_context(
                segmenter_class(row)(
                    cached, settings=settings.with_overrides(row.changes), method=row.method, superpixels=pixels
                )
            )
            for row in rows
        }
        stopwatch = stack.enter_context(EntitySegmenter(sam, settings=settings)) if timed else None
        _begin(plan, header)
        finished = {image_id for image_id, _ in read_photos(journal, rows)}
        for photo in plan.photos:
            if photo.image_id not in finished:
                image = read_photo(
                    plan.files[photo.image_id].path, photo.name, o.run.max_pixels, o.run.sample_range
                ).image_hwc_rgb
                cached.clear()
                pixels.clear()
                found = {name: segment(image).to_coco(photo.image_id) for name, segment in segmenters.items()}
                start = time.perf_counter()
                times_s = {**stopwatch(image).times_s, "total": time.perf_counter() - start} if stopwatch else {}
                append_photo(journal, photo.image_id, found, times_s)
            on_progress(photo)
    result = score_table(plan, rows, journal)
    _write(result, header)
    return result


def _header(plan: Plan, rows: Sequence[Row], sam: Sam, title: str, timed: bool) -> dict[str, Any]:
    """Content of table.json before there are results."""
    o, execution = plan.options, plan.options.run.segmenter.execution
    return {
        "program": PROGRAM,
        "esam_rt": __version__,
        "title": title,
        "model": {
            "name": sam.model.name,
            "checkpoint_sha256": sam.checkpoint_sha256,
            "default_thresholds": sam.model.default_thresholds(),
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


def _photo_list_sha256(plan: Plan) -> str:
    """Hash of names, sizes and file sizes of all photos: the ids in the journal refer to these photos."""
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
    else:
        folder.remove_temporary()
    folder.write_record(header)


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
