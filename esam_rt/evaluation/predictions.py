"""Finished results to be scored: COCO results, `entities.json`, the folder of a run, label maps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from esam_rt.errors import InputError
from esam_rt.evaluation.photo_names import Names
from esam_rt.evaluation.truth.rle import dense_mask, read_mask
from esam_rt.evaluation.truth.true_photo import TruePhoto, describe, read_json, read_label_map
from esam_rt.run.output_folder import PHOTOS, RUN
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.storage.jsonl import read_lines

PREDICTIONS = "predictions"  # the run of an `esam-rt eval`, in its folder
FORMS = "COCO results, entities.json, the folder of a run or of label maps"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was found in photos of the ground truth.

    photos: those that were looked at. found: by image id, COCO annotations with `segmentation` and, unless `scored` is
    false, `score`. run: of esam-rt's run.json, else empty.
    """

    photos: Sequence[TruePhoto]
    found: Mapping[int, Sequence[dict[str, Any]]]
    scored: bool = True
    run: Mapping[str, Any] = field(default_factory=dict)

    def detections(self, photo: TruePhoto) -> Sequence[dict[str, Any]]:
        """Of one photo."""
        return self.found.get(photo.image_id, ())

    def labels(self, photo: TruePhoto) -> NDArray[np.int64]:
        """Label map [H, W] of a photo, 0 = nothing found; where masks overlap, the higher score is on top."""
        return label_map(self.detections(photo), photo.height, photo.width)


def label_map(detections: Sequence[Mapping[str, Any]], height: int, width: int) -> NDArray[np.int64]:
    """Detection i as label i + 1 in [H, W]; the best score on top."""
    labels = np.zeros((height, width), np.int64)
    scores = [float(d.get("score", 0)) for d in detections]
    for i in np.argsort(scores, kind="stable"):
        labels[dense_mask(detections[i]["segmentation"])] = i + 1
    return labels


def read_predictions(path: Path, photos: Sequence[TruePhoto]) -> Predictions:
    """Results for photos of the ground truth, in one of these forms:

    - a JSON list of {image_id, segmentation, score}: COCO results, of all photos;
    - a JSON object with images and annotations, as `esam-rt run` writes; photos are matched by name;
    - the folder of an `esam-rt run` or `esam-rt eval`;
    - a folder of label maps `<photo>.png`, 0 = none, which have no scores.

    Raises `InputError` for anything else, for ids or names that no photo has and for masks that do not fit their photo.
    """
    if not path.is_dir():
        return _file(path, photos)
    if (path / PREDICTIONS / RUN).is_file():
        return _run(path / PREDICTIONS, photos)
    if (path / RUN).is_file():
        return _run(path, photos)
    if (path / "entities.json").is_file():
        return _file(path / "entities.json", photos)
    return _label_maps(path, photos)


def _file(path: Path, photos: Sequence[TruePhoto]) -> Predictions:
    data = read_json(path)
    if isinstance(data, list):
        by_id = {photo.image_id: photo for photo in photos}
        found: dict[int, list[dict[str, Any]]] = {photo.image_id: [] for photo in photos}
        for number, entry in enumerate(data, 1):
            image_id = entry.get("image_id") if isinstance(entry, dict) else None
            if not isinstance(image_id, int) or image_id not in by_id:
                some = ", ".join(str(photo.image_id) for photo in photos[:3])
                raise InputError(
                    f"{path}: result {number} is of image {image_id!r}; expected an id of the ground truth, such as "
                    f"{some}. Give results of these photos."
                )
            found[image_id].append(_detection(entry, by_id[image_id], f"{path}: result {number}"))
        return Predictions(photos, found)
    lists = isinstance(data, dict) and all(isinstance(data.get(key), list) for key in ("images", "annotations"))
    if not lists:
        raise InputError(f"{path}: holds {describe(data)}; expected {FORMS}.")
    names: dict[int, str] = {}
    for image in data["images"]:
        named = isinstance(image, dict) and isinstance(image.get("file_name"), str)
        if not named or not isinstance(image.get("id"), int):
            raise InputError(f"{path}: an image is {repr(image)[:80]}; expected id and file_name.")
        names[image["id"]] = image["file_name"]
    entities: dict[str, list[Any]] = {name: [] for name in names.values()}
    for number, annotation in enumerate(data["annotations"], 1):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image_id, int) or image_id not in names:
            raise InputError(
                f"{path}: annotation {number} is of image {image_id!r}; expected one of its {len(names)} images."
            )
        entities[names[image_id]].append(annotation)
    return _by_name(path, entities, photos, {})


def _run(folder: Path, photos: Sequence[TruePhoto]) -> Predictions:
    """From the journal, which is whole even where the run was interrupted."""
    try:
        run = json.loads((folder / RUN).read_bytes())
    except (OSError, ValueError) as e:
        raise InputError(f"{folder / RUN}: cannot be read ({e}); expected the folder of a run of esam-rt.") from e
    records = map(PhotoRecord.from_json, read_lines(folder / PHOTOS))
    return _by_name(folder, {record.name: record.entities for record in records}, photos, run)


def _by_name(
    path: Path, entities: Mapping[str, Sequence[Any]], photos: Sequence[TruePhoto], run: Mapping[str, Any]
) -> Predictions:
    """Results that know their photos by name; photos without ground truth are left out."""
    names = Names(entities, str(path)).matches(photo.name for photo in photos)
    seen, found = [], {}
    for photo in photos:
        name = names.get(photo.name)
        if name is not None:
            seen.append(photo)
            found[photo.image_id] = [_detection(e, photo, f"{path}: an entity of {name}") for e in entities[name]]
    _check_any(path, seen, entities, photos)
    return Predictions(seen, found, run=run)


def _label_maps(folder: Path, photos: Sequence[TruePhoto]) -> Predictions:
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*.png"))}
    names = Names(files, str(folder)).matches(photo.name for photo in photos)
    seen, found = [], {}
    for photo in photos:
        name = names.get(photo.name)
        if name is not None:
            labels = read_label_map(files[name])
            if labels.shape != (photo.height, photo.width):
                raise InputError(
                    f"{files[name]}: is {labels.shape[1]} x {labels.shape[0]} pixels, the photo of the ground truth "
                    f"{photo.width} x {photo.height}; give results and ground truth of the same resolution."
                )
            masks = (np.asfortranarray(labels == label) for label in np.unique(labels[labels > 0]))
            seen.append(photo)
            found[photo.image_id] = [{"segmentation": coco_mask.encode(mask.view(np.uint8))} for mask in masks]
    if not files:
        raise InputError(f"{folder}: holds no results; expected {FORMS}.")
    _check_any(folder, seen, files, photos)
    return Predictions(seen, found, scored=False)


def _check_any(path: Path, seen: Sequence[TruePhoto], names: Mapping[str, Any], photos: Sequence[TruePhoto]) -> None:
    if not seen:
        theirs = ", ".join(list(names)[:2]) or "no photo"
        ours = ", ".join(photo.name for photo in photos[:2])
        raise InputError(
            f"{path}: is of {theirs}, the ground truth of {ours}; no photo is in both. Give results of these photos."
        )


def _detection(entry: object, photo: TruePhoto, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {repr(entry)[:60]}; expected segmentation and score.")
    score = entry.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise InputError(f"{where}: score is {score!r}; expected a number. AP needs one for each mask.")
    if "segmentation" not in entry:
        raise InputError(f"{where}: has {', '.join(map(str, entry))}; expected a segmentation, boxes are not enough.")
    return {"segmentation": read_mask(entry["segmentation"], photo.height, photo.width, where), "score": float(score)}
