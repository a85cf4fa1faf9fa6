"""Reads results to score: COCO results, ``entities.json``, the folder of a run, label maps, files of SAM."""

from __future__ import annotations

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
from esam_rt.evaluation.truth.coco_masks import read_mask
from esam_rt.evaluation.truth.true_photo import TruePhoto, describe, read_json, read_label_map
from esam_rt.rle import dense_mask
from esam_rt.run.output_folder import RUN
from esam_rt.run.resume import RunFolder
from esam_rt.storage.json_files import bounded_json

PREDICTIONS = "predictions"  # folder of the run inside the folder of an evaluation
FORMS = "COCO results, entities.json, the folder of a run or of label maps, or JSON files of SAM"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detections in photos of the ground truth.

    Attributes:
        photos: Photos that have results, including results without detections.
        found: COCO annotations by image id, with ``segmentation`` (compressed RLE) and, if ``scored``, ``score``.
        scored: False for label maps: their detections have no scores.
        run: Content of run.json of esam-rt; empty for other results.
    """

    photos: Sequence[TruePhoto]
    found: Mapping[int, Sequence[dict[str, Any]]]
    scored: bool = True
    run: Mapping[str, Any] = field(default_factory=dict)

    def detections(self, photo: TruePhoto) -> Sequence[dict[str, Any]]:
        """Return the COCO annotations of a photo; empty if nothing was found.

        Args:
            photo: A photo of the ground truth.
        """
        return self.found.get(photo.image_id, ())

    def labels(self, photo: TruePhoto) -> NDArray[np.int64]:
        """Return the label map int64 [H, W] of a photo; see ``label_map``.

        Args:
            photo: A photo of the ground truth.
        """
        return label_map(self.detections(photo), photo.height, photo.width)


def label_map(detections: Sequence[Mapping[str, Any]], height: int, width: int) -> NDArray[np.int64]:
    """Return a label map int64 [H, W]: label i + 1 for detection i, 0 for no detection, the highest score on top.

    Args:
        detections: COCO annotations with ``segmentation`` (compressed RLE); a missing ``score`` counts as 0.
        height: Height in pixels.
        width: Width in pixels.
    """
    labels = np.zeros((height, width), np.int64)
    scores = [float(d.get("score", 0)) for d in detections]
    for i in np.argsort(scores, kind="stable"):
        labels[dense_mask(detections[i]["segmentation"])] = i + 1
    return labels


def read_predictions(path: Path, photos: Sequence[TruePhoto]) -> Predictions:
    """Read results for photos of the ground truth.

    Args:
        path: One of these:

            - a JSON list of COCO results (``image_id``, ``segmentation``, ``score``), taken as results for all photos;
            - a JSON object with ``images`` and ``annotations``, as ``esam-rt run`` writes; names match the photos;
            - the folder of an ``esam-rt run`` or ``esam-rt eval``;
            - a JSON file of SA-1B (``image`` and ``annotations``), or of SAM's automatic mask generation: a list of
              masks with ``predicted_iou``, in a file that is named after its photo; or a folder of such files;
            - a folder of label maps ``<photo>.png`` without scores, 0 for no entity.
        photos: Photos of the ground truth.

    Returns:
        Results for the photos that have some.

    Raises:
        InputError: The form is another, an id or name fits no photo, or a mask does not fit its photo.
    """
    if not path.is_dir():
        return _file(path, photos)
    if (path / PREDICTIONS / RUN).is_file():
        return _run(path / PREDICTIONS, photos)
    if (path / RUN).is_file():
        return _run(path, photos)
    if (path / "entities.json").is_file():
        return _file(path / "entities.json", photos)
    files = sorted(path.rglob("*.json"))
    is_of_sam = files and not any(path.rglob("*.png"))
    return _sam_files(path, files, photos) if is_of_sam else _label_maps(path, photos)


def _file(path: Path, photos: Sequence[TruePhoto]) -> Predictions:
    data = read_json(path)
    if _is_of_sam(data):
        return _sam_files(path.parent, [path], photos)
    if isinstance(data, list):
        by_id = {photo.image_id: photo for photo in photos}
        found: dict[int, list[dict[str, Any]]] = {photo.image_id: [] for photo in photos}
        for number, entry in enumerate(data, 1):
            image_id = entry.get("image_id") if isinstance(entry, dict) else None
            if not isinstance(image_id, int) or image_id not in by_id:
                some = ", ".join(str(photo.image_id) for photo in photos[:3])
                raise InputError(
                    f"{path}: result {number} has image_id {image_id!r}; expected an id of the ground truth, such as "
                    f"{some}. Give results for these photos."
                )
            found[image_id].append(_detection(entry, by_id[image_id], f"{path}: result {number}"))
        return Predictions(photos, found)
    lists = isinstance(data, dict) and all(isinstance(data.get(key), list) for key in ("images", "annotations"))
    if not lists:
        raise InputError(f"{path}: holds {describe(data)}; expected {FORMS}. Give one of these.")
    names: dict[int, str] = {}
    for image in data["images"]:
        named = isinstance(image, dict) and isinstance(image.get("file_name"), str)
        if not named or not isinstance(image.get("id"), int):
            raise InputError(
                f"{path}: an image is {repr(image)[:80]}; expected id and file_name. Write the file again."
            )
        names[image["id"]] = image["file_name"]
    entities: dict[str, list[Any]] = {name: [] for name in names.values()}
    for number, annotation in enumerate(data["annotations"], 1):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image_id, int) or image_id not in names:
            raise InputError(
                f"{path}: annotation {number} has image_id {image_id!r}; expected one of the file's {len(names)} "
                "images. Write the file again."
            )
        entities[names[image_id]].append(annotation)
    return _by_name(path, entities, photos, {})


def _run(folder: Path, photos: Sequence[TruePhoto]) -> Predictions:
    """Results in the journal of a run. An interrupted run has a complete journal too."""
    try:
        run = bounded_json(folder / RUN)
        if not isinstance(run, dict):
            raise ValueError("found no table")
    except (OSError, ValueError) as e:
        raise InputError(
            f"{folder / RUN}: cannot be read ({e}); expected the folder of an esam-rt run. Check the path."
        ) from e
    records = RunFolder(folder).records()
    return _by_name(folder, {record.name: record.entities for record in records}, photos, run)


def _by_name(
    path: Path, entities: Mapping[str, Sequence[Any]], photos: Sequence[TruePhoto], run: Mapping[str, Any]
) -> Predictions:
    """Results by name of the photo. Photos without ground truth are left out."""
    names = Names(entities, str(path)).matches(photo.name for photo in photos)
    seen, found = [], {}
    for photo in photos:
        name = names.get(photo.name)
        if name is not None:
            seen.append(photo)
            found[photo.image_id] = [_detection(e, photo, f"{path}: an entity of {name}") for e in entities[name]]
    _check_any(path, seen, entities, photos)
    return Predictions(seen, found, run=run)


def _is_of_sam(data: object) -> bool:
    """True for a file of SA-1B, and for a list of masks as SAM's automatic mask generation writes it."""
    if isinstance(data, dict):
        return isinstance(data.get("image"), dict) and isinstance(data.get("annotations"), list)
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, dict) and "predicted_iou" in first and "image_id" not in first


def _sam_files(folder: Path, files: Sequence[Path], photos: Sequence[TruePhoto]) -> Predictions:
    """One file a photo. The score is ``predicted_iou``."""
    entities: dict[str, list[Any]] = {}
    for file in files:
        data = read_json(file)
        if data != [] and not _is_of_sam(data):
            raise InputError(f"{file}: holds {describe(data)}; expected a JSON file of SAM. Give {FORMS}.")
        name = file.relative_to(folder).with_suffix("").as_posix()
        if isinstance(data, dict):
            given = data["image"].get("file_name")
            name = given if isinstance(given, str) and given else name
            data = data["annotations"]
        masks = [{**mask, "score": mask.get("predicted_iou")} if isinstance(mask, dict) else mask for mask in data]
        entities[name] = masks
    return _by_name(folder, entities, photos, {})


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
                    f"{files[name]}: is {labels.shape[1]} x {labels.shape[0]} pixels; expected {photo.width} x "
                    f"{photo.height}, as in the ground truth. Give results and ground truth of one resolution."
                )
            masks = (np.asfortranarray(labels == label) for label in np.unique(labels[labels > 0]))
            seen.append(photo)
            found[photo.image_id] = [{"segmentation": coco_mask.encode(mask.view(np.uint8))} for mask in masks]
    if not files:
        raise InputError(f"{folder}: holds no results; expected {FORMS}. Check the path.")
    _check_any(folder, seen, files, photos)
    return Predictions(seen, found, scored=False)


def _check_any(path: Path, seen: Sequence[TruePhoto], names: Mapping[str, Any], photos: Sequence[TruePhoto]) -> None:
    if not seen:
        found = ", ".join(list(names)[:2]) or "no photo"
        expected = ", ".join(photo.name for photo in photos[:2])
        raise InputError(
            f"{path}: has results for {found}; expected photos of the ground truth, such as {expected}. Give results "
            "for these photos."
        )


def _detection(entry: object, photo: TruePhoto, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {repr(entry)[:60]}; expected segmentation and score. Write the file again.")
    score = entry.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise InputError(f"{where}: score is {score!r}; expected a number. Give each mask a score: AP needs it.")
    if "segmentation" not in entry:
        raise InputError(
            f"{where}: has {', '.join(map(str, entry))}; expected a segmentation. Give masks: boxes are not enough."
        )
    return {"segmentation": read_mask(entry["segmentation"], photo.height, photo.width, where), "score": float(score)}
