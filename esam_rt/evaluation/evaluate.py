"""Runs an evaluation: find the photos, segment or read predictions, score, write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from esam_rt.errors import InputError, SettingsError
from esam_rt.evaluation.metrics.bootstrap import LEVEL, differences, estimates, resamples
from esam_rt.evaluation.metrics.score import score
from esam_rt.evaluation.photo_names import Names
from esam_rt.evaluation.plan import PROGRAM, REPORT, SCORES, EvalOptions, Plan, Result
from esam_rt.evaluation.predictions import PREDICTIONS, Predictions, read_predictions
from esam_rt.evaluation.reports.eval_report import write_report
from esam_rt.evaluation.truth.bsds_truth import RegionTruth
from esam_rt.evaluation.truth.coco_truth import MaskTruth
from esam_rt.evaluation.truth.ground_truth import read_truth
from esam_rt.evaluation.truth.true_photo import TruePhoto, photo_size
from esam_rt.run.folder_run import run_photos
from esam_rt.run.output_folder import OutputFolder, RunFolder
from esam_rt.run.run_options import Listener, RunOptions, RunSummary, Segmenter, open_segmenter
from esam_rt.sources.photo_files import PhotoFile, find_photos
from esam_rt.storage.atomic import make_folder, write_json
from esam_rt.storage.provenance import package_versions, utc_now


def prepare(options: EvalOptions) -> Plan:
    """Read the ground truth, find its photos, make the folder. Errors: InputError, SettingsError, OutputError."""
    if options.predictions is None and options.images is None and not options.truth.is_dir():
        raise SettingsError("Give --images, the folder of the photos to segment, or --predictions, finished results.")
    if options.predictions is not None and options.resume:
        raise SettingsError("--resume goes on with segmenting; with --predictions there is nothing to go on with.")
    if options.resume and options.overwrite:
        raise SettingsError("--resume goes on with an earlier run, --overwrite removes it; give one of them.")
    truth = read_truth(options.truth, options.pngs)
    photos = truth.photos[: options.limit]
    if not photos:
        raise InputError(f"{options.truth}: holds no photos; expected ground truth of one at least.")
    images = options.images
    if images is None and isinstance(truth, RegionTruth) and (options.truth / "images").is_dir():
        images = options.truth / "images"
    files = {} if images is None else _find_files(images, truth.photos)
    _check_sizes(options.truth, photos, files)
    if options.predictions is None:
        there = [photo for photo in photos if photo.image_id in files]
        if not options.partial or not there:
            _check_all(f"{images or options.truth}: has", photos, there, "photos")
        photos = there
    _check_folder(options)
    make_folder(options.out)
    return Plan(options, truth, photos, files)


def segment(
    plan: Plan, listener: Listener, make_segmenter: Callable[[RunOptions], Segmenter] = open_segmenter
) -> RunSummary:
    """Segment the photos into `predictions/`, as `esam-rt run` does, with its journal."""
    o = plan.options
    # All of them: a resumed run may have another --limit, but no other sources.
    photos = [plan.files[photo.image_id] for photo in plan.truth.photos if photo.image_id in plan.files]
    sources, out = [photo.path for photo in photos], o.out / PREDICTIONS
    run = replace(o.run, sources=sources, photos=photos, limit=len(plan.photos), out=out, write=("coco",))
    run = replace(run, resume=o.resume, overwrite=o.overwrite)
    return run_photos(run, listener, make_segmenter)


def evaluate(plan: Plan, done: Callable[[TruePhoto], None]) -> Result:
    """Score the results of a plan; `done` is told of each photo. InputError for results that cannot be used."""
    o = plan.options
    source = o.predictions or o.out / PREDICTIONS
    predictions = _predictions(source, plan)
    photos = _of_plan(predictions, plan)
    other = None
    if o.predictions is not None and not o.partial:
        _check_all(f"{source}: has results for", plan.photos, photos, "photos of the ground truth")
    if o.against is not None:
        theirs = _predictions(o.against, plan)
        _check_all(f"{o.against}: has results for", photos, theirs.photos, "photos scored")
        other = score(plan.truth, theirs, photos, lambda photo: None)
    scored = score(plan.truth, predictions, photos, done)
    weights = resamples(len(photos), o.resamples, o.seed)
    metrics = estimates(scored.scores, weights)
    if other is None:
        return Result(plan, predictions, scored, metrics)
    difference = differences(scored.scores, other.scores, weights)
    return Result(plan, predictions, scored, metrics, estimates(other.scores, weights), difference, other)


def write(result: Result) -> dict[str, Any]:
    """Write scores.json and report.html; returns what the former holds."""
    out = result.plan.options.out
    record = _record(result)
    write_json(out / SCORES, record)
    write_report(out / REPORT, result, record)
    return record


def _record(result: Result) -> dict[str, Any]:
    """All that was measured, and how."""
    o, truth, scored = result.plan.options, result.plan.truth, result.scored
    run = result.predictions.run
    record: dict[str, Any] = {
        "program": PROGRAM,
        "created": utc_now(),
        "ground_truth": {"path": str(o.truth.resolve()), "form": truth.form, "photos": len(truth.photos)},
        "predictions": str((o.predictions or o.out / PREDICTIONS).resolve()),
        "run": {
            key: run[key] for key in ("model", "method", "backend", "device", "settings", "versions") if key in run
        },
        "photos_scored": len(scored.photos),
        "photos_without_results": result.empty(),
        "photos_with_overlapping_masks": scored.overlapping,
        "protocol": PROTOCOLS[truth.form if isinstance(truth, RegionTruth) else MaskTruth.form],
        "bootstrap": {"resamples": o.resamples, "seed": o.seed, "level": LEVEL, "interval": "percentiles over photos"},
        "metrics": {name: asdict(e) for name, e in result.metrics.items()},
        "versions": package_versions(("numpy", "pycocotools", "scipy", "scikit-image")),
    }
    if o.against is not None:
        record["against"] = {
            "predictions": str(o.against.resolve()),
            "metrics": {name: asdict(e) for name, e in result.theirs.items()},
            "difference": {name: asdict(e) for name, e in result.difference.items()},
        }
    photos = zip(scored.photos, scored.values, strict=True)
    record["photos"] = [{"image_id": photo.image_id, "name": photo.name, **values} for photo, values in photos]
    return record


PROTOCOLS = {
    MaskTruth.form: (
        "COCO mask AP and AR in percent, class-agnostic, at most 100 detections a photo, IoU 0.50 to 0.95; crowds are "
        "ignore regions; small, medium, large: up to 32 x 32, up to 96 x 96, larger, in pixels of the masks. AP is the "
        "AP^e of E-SAM's paper; its AP_L^e is AP on EntitySeg's low-resolution set, not AP_large."
    ),
    RegionTruth.form: (
        "BSDS500, one fixed segmentation a photo. What is not labelled is one segment. covering: of annotators' maps "
        "by ours, a mean over all maps; covering_best: by the annotator who agrees best; covering_reverse: of ours by "
        "theirs. PRI: Rand index, VI: bits, less is better; both means over annotators, then photos. boundary: one "
        "pixel wide, exact matching within 0.0075 of the diagonal, pixels summed over photos."
    ),
}


def _find_files(images: Path, photos: Sequence[TruePhoto]) -> dict[int, PhotoFile]:
    there = {photo.name: photo for photo in find_photos([images])}
    names = Names(there, str(images)).matches(photo.name for photo in photos)
    return {photo.image_id: there[names[photo.name]] for photo in photos if photo.name in names}


def _check_sizes(truth: Path, photos: Sequence[TruePhoto], files: Mapping[int, PhotoFile]) -> None:
    """InputError for a photo of another size than its ground truth, before hours go into segmenting."""
    for photo in photos:
        path = files[photo.image_id].path if photo.image_id in files else None
        size = photo_size(path) if path else None
        if size is not None and size != (photo.width, photo.height):
            raise InputError(
                f"{path}: is {size[0]} x {size[1]} pixels, in {truth} {photo.width} x {photo.height}; "
                "give the photos that the ground truth was made for (EntitySeg's …_lr.json goes with images_lr/)."
            )


def _check_all(who: str, wanted: Sequence[TruePhoto], there: Sequence[TruePhoto], what: str) -> None:
    known = set(there)
    missing = [photo.name for photo in wanted if photo not in known]
    if missing:
        raise InputError(
            f"{who} {len(wanted) - len(missing)} of {len(wanted)} {what}; the first of {len(missing)} missing is "
            f"{missing[0]}. Add them, or score the others with --partial."
        )


def _predictions(source: Path, plan: Plan) -> Predictions:
    """Of all photos of the ground truth, whatever --limit says: results of others are a mistake."""
    if not source.exists():
        raise InputError(f"{source}: does not exist; expected results to score.")
    scores = source / SCORES
    if scores.is_file() and not (source / PREDICTIONS).is_dir():  # an evaluation of results that lie elsewhere
        try:
            source = Path(json.loads(scores.read_bytes())["predictions"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"{scores}: names no predictions; expected the folder of an esam-rt eval.") from e
    predictions = read_predictions(source, plan.truth.photos)
    if isinstance(plan.truth, MaskTruth) and not predictions.scored:
        raise InputError(f"{source}: label maps have no scores, which AP needs; give entities.json or COCO results.")
    return predictions


def _of_plan(predictions: Predictions, plan: Plan) -> list[TruePhoto]:
    seen = set(predictions.photos)
    photos = [photo for photo in plan.photos if photo in seen]
    if not photos:
        raise InputError(f"No photo of {plan.options.truth} has results; nothing can be scored.")
    return photos


def _check_folder(options: EvalOptions) -> None:
    """SettingsError for an earlier evaluation in --out, or someone else's files; removes a run that is stale."""
    out = options.out
    for name, results in (("--predictions", options.predictions), ("--against", options.against)):
        place = results and results.resolve()
        if place and (place == out.resolve() or place.is_relative_to((out / PREDICTIONS).resolve())):
            raise SettingsError(f"{name} {results}: is in --out {out}, which is written anew; choose another --out.")
    folder = OutputFolder(out, (SCORES, REPORT), SCORES, PROGRAM, kind="evaluation", flags="--overwrite to replace it")
    folder.choose(options.resume, options.overwrite)
    run = RunFolder(out / PREDICTIONS)
    if options.predictions is not None and run.earlier() is not None:
        if not options.overwrite:
            raise SettingsError(f"--out {out}: holds a run of its own; give --overwrite, or another folder.")
        run.clear()
