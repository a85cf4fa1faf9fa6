"""Runs an evaluation: finds the photos, segments them or reads predictions, scores, writes."""

from __future__ import annotations

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
from esam_rt.evaluation.truth.true_photo import TRUTH_BYTES, TruePhoto, photo_size
from esam_rt.run.folder_run import run_photos
from esam_rt.run.output_folder import OutputFolder
from esam_rt.run.resume import RunFolder
from esam_rt.run.run_options import Listener, RunOptions, RunSummary, Segmenter, open_segmenter
from esam_rt.sources.photo_search import PhotoFile, find_photos
from esam_rt.storage.atomic import make_folder, write_json
from esam_rt.storage.json_files import bounded_json
from esam_rt.storage.provenance import package_versions, utc_now


def prepare(options: EvalOptions) -> Plan:
    """Read the ground truth, find its photos and make the output folder.

    Args:
        options: Options of the evaluation.

    Returns:
        The photos to score.

    Raises:
        SettingsError: Options contradict each other, or the output folder holds something else.
        InputError: The ground truth cannot be read, or photos are missing or have another size.
        OutputError: The output folder cannot be made.
    """
    if options.predictions is None and options.images is None and not options.truth.is_dir():
        raise SettingsError(
            "No photos and no results. Give --images with the folder of the photos, or --predictions with results."
        )
    if options.predictions is not None and options.resume:
        raise SettingsError("--resume continues segmenting, but --predictions segments nothing. Leave out one of them.")
    if options.resume and options.overwrite:
        raise SettingsError("--resume continues an earlier run, --overwrite removes it. Give one of them.")
    truth = read_truth(options.truth, options.pngs)
    photos = truth.photos[: options.limit]
    if not photos:
        raise InputError(f"{options.truth}: holds no photos; expected ground truth for at least one.")
    images = options.images
    if images is None and isinstance(truth, RegionTruth) and (options.truth / "images").is_dir():
        images = options.truth / "images"
    files = {} if images is None else _find_files(images, truth.photos)
    _check_sizes(options.truth, photos, files)
    if options.predictions is None:
        available = [photo for photo in photos if photo.image_id in files]
        if not options.partial or not available:
            _check_all(f"{images or options.truth}: has", photos, available, "photos")
        photos = available
    _check_folder(options)
    make_folder(options.out)
    return Plan(options, truth, photos, files)


def segment(
    plan: Plan,
    listener: Listener | None = None,
    make_segmenter: Callable[[RunOptions], Segmenter] = open_segmenter,
) -> RunSummary:
    """Segment the photos into ``predictions/`` with a journal, as ``esam-rt run`` does.

    Args:
        plan: Photos and options.
        listener: Told when photos begin and end. Default: nobody is.
        make_segmenter: Opens the segmenter.

    Returns:
        Counts, times and exit code of the run.
    """
    o = plan.options
    # All photos, not only those within --limit: a resumed run may change the limit but not its sources.
    photos = [plan.files[photo.image_id] for photo in plan.truth.photos if photo.image_id in plan.files]
    sources, out = [photo.path for photo in photos], o.out / PREDICTIONS
    run = replace(o.run, sources=sources, photos=photos, limit=len(plan.photos), out=out, write=("coco",))
    run = replace(run, resume=o.resume, overwrite=o.overwrite)
    return run_photos(run, listener, make_segmenter)


def evaluate(plan: Plan, on_progress: Callable[[TruePhoto], None] = lambda photo: None) -> Result:
    """Score the results of a plan.

    Args:
        plan: Photos, ground truth and options.
        on_progress: Called after each photo.

    Returns:
        Scores with intervals.

    Raises:
        InputError: Results are missing, or do not fit the ground truth.
    """
    o = plan.options
    source = o.predictions or o.out / PREDICTIONS
    predictions = _predictions(source, plan)
    photos = _photos_with_results(predictions, plan)
    baseline = None
    if o.predictions is not None and not o.partial:
        _check_all(f"{source}: has results for", plan.photos, photos, "photos of the ground truth")
    if o.against is not None:
        other = _predictions(o.against, plan)
        _check_all(f"{o.against}: has results for", photos, other.photos, "photos scored")
        baseline = score(plan.truth, other, photos, lambda photo: None)
    scored = score(plan.truth, predictions, photos, on_progress)
    weights = resamples(len(photos), o.resamples, o.seed)
    metrics = estimates(scored.scores, weights)
    if baseline is None:
        return Result(plan, predictions, scored, metrics)
    difference = differences(scored.scores, baseline.scores, weights)
    return Result(plan, predictions, scored, metrics, estimates(baseline.scores, weights), difference, baseline)


def write(result: Result) -> dict[str, Any]:
    """Write scores.json and report.html.

    Args:
        result: The evaluation.

    Returns:
        Content of scores.json.
    """
    out = result.plan.options.out
    record = _record(result)
    write_json(out / SCORES, record)
    write_report(out / REPORT, result, record)
    return record


def _record(result: Result) -> dict[str, Any]:
    """Content of scores.json: all scores, and how they were measured."""
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
            "metrics": {name: asdict(e) for name, e in result.baseline.items()},
            "difference": {name: asdict(e) for name, e in result.difference.items()},
        }
    photos = zip(scored.photos, scored.values, strict=True)
    record["photos"] = [{"image_id": photo.image_id, "name": photo.name, **values} for photo, values in photos]
    return record


PROTOCOLS = {
    MaskTruth.form: (
        "COCO mask AP and AR in percent, class-agnostic, at most 100 detections per photo, IoU 0.50 to 0.95. Crowds "
        "are ignore regions. small: up to 32 x 32 mask pixels, medium: up to 96 x 96, large: more. AP is the AP^e of "
        "E-SAM's paper. The paper's AP_L^e is AP on EntitySeg's low-resolution set, not AP_large."
    ),
    RegionTruth.form: (
        "BSDS500, one fixed segmentation per photo. Pixels without a label form one segment. covering: of the "
        "annotators' maps by the result, mean over all maps. covering_best: with the annotator who agrees best. "
        "covering_reverse: of the result by the annotators' maps. PRI: Rand index. VI: bits, less is better. Both are "
        "means over annotators, then photos. boundary: one pixel wide, exact matching within 0.0075 of the diagonal, "
        "pixels summed over photos."
    ),
}


def _find_files(images: Path, photos: Sequence[TruePhoto]) -> dict[int, PhotoFile]:
    available = {photo.name: photo for photo in find_photos([images])}
    names = Names(available, str(images)).matches(photo.name for photo in photos)
    return {photo.image_id: available[names[photo.name]] for photo in photos if photo.name in names}


def _check_sizes(truth: Path, photos: Sequence[TruePhoto], files: Mapping[int, PhotoFile]) -> None:
    """Raise InputError if a photo and its ground truth differ in size, before hours go into segmenting."""
    for photo in photos:
        path = files[photo.image_id].path if photo.image_id in files else None
        size = photo_size(path) if path else None
        if size is not None and size != (photo.width, photo.height):
            raise InputError(
                f"{path}: is {size[0]} x {size[1]} pixels; expected {photo.width} x {photo.height}, as in {truth}. "
                "Give the photos that the ground truth was made for (EntitySeg: …_lr.json needs images_lr/)."
            )


def _check_all(who: str, wanted: Sequence[TruePhoto], available: Sequence[TruePhoto], what: str) -> None:
    known = set(available)
    missing = [photo.name for photo in wanted if photo not in known]
    if missing:
        raise InputError(
            f"{who} {len(wanted) - len(missing)} of {len(wanted)} {what}. The first of {len(missing)} missing is "
            f"{missing[0]}. Add them, or score the others with --partial."
        )


def _predictions(source: Path, plan: Plan) -> Predictions:
    """Results for all photos of the ground truth, beyond --limit too: results for other photos are a mistake."""
    if not source.exists():
        raise InputError(f"{source}: does not exist; expected results to score. Check the path.")
    scores = source / SCORES
    if scores.is_file() and not (source / PREDICTIONS).is_dir():  # an earlier evaluation of results in another folder
        try:
            source = Path(bounded_json(scores, TRUTH_BYTES)["predictions"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"{scores}: names no predictions; expected the folder of an esam-rt eval.") from e
    predictions = read_predictions(source, plan.truth.photos)
    if isinstance(plan.truth, MaskTruth) and not predictions.scored:
        raise InputError(f"{source}: AP needs scores, but label maps have none. Give entities.json or COCO results.")
    return predictions


def _photos_with_results(predictions: Predictions, plan: Plan) -> list[TruePhoto]:
    seen = set(predictions.photos)
    photos = [photo for photo in plan.photos if photo in seen]
    if not photos:
        raise InputError(f"No photo of {plan.options.truth} has results. Give results for photos of the ground truth.")
    return photos


def _check_folder(options: EvalOptions) -> None:
    """SettingsError for an earlier evaluation in --out, or someone else's files; removes what is stale."""
    out = options.out
    for name, results in (("--predictions", options.predictions), ("--against", options.against)):
        place = results and results.resolve()
        if place and (place == out.resolve() or place.is_relative_to((out / PREDICTIONS).resolve())):
            raise SettingsError(f"{name} {results}: is in --out {out}, which is written anew; choose another --out.")
    folder = OutputFolder(out, (SCORES, REPORT), SCORES, PROGRAM, kind="evaluation", flags="--overwrite to replace it")
    folder.choose(options.resume, options.overwrite)
    folder.remove_temporary()
    run = RunFolder(out / PREDICTIONS)
    if options.predictions is not None and run.earlier() is not None:
        if not options.overwrite:
            raise SettingsError(f"--out {out}: holds a run of its own; give --overwrite, or another folder.")
        run.clear()
