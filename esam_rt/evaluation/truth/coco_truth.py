"""Ground truth in the form of COCO: instances, panoptic, EntitySeg.

EntitySeg (adobe-research/EntitySeg-Dataset, qqlu/Entity) publishes JSON in COCO's style: ``images`` and
``annotations`` with compressed RLE, categories from 0, and no ``iscrowd``. ``file_name`` is relative to the folder of
all photos and begins with ``entity_01_11580/`` or another of three sub-folders, or it is relative to a sub-folder.
The low-resolution set has its own JSON (``…_lr.json``) for the photos in ``images_lr/``. E-SAM's paper calls AP^e on
it AP_L^e.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from esam_rt.errors import InputError
from esam_rt.evaluation.truth.coco_masks import read_mask
from esam_rt.evaluation.truth.true_photo import TruePhoto, describe, read_json, read_png


class MaskTruth:
    """Masks of the entities of each photo, for AP.

    Args:
        path: The JSON file.
        photos: Photos, in the order of their ids.
        annotations: Annotations as the file has them, by image id. They are checked when they are asked for.
    """

    form = "coco"

    def __init__(
        self, path: Path, photos: Sequence[TruePhoto], annotations: Mapping[int, Sequence[dict[str, Any]]]
    ) -> None:
        self.path, self.photos, self._annotations = path, photos, annotations

    def entities(self, photo: TruePhoto) -> list[dict[str, Any]]:
        """Return the COCO annotations of a photo: ``segmentation`` as compressed RLE, ``area`` in pixels, ``iscrowd``.

        Args:
            photo: A photo of this ground truth.

        Raises:
            InputError: An annotation is damaged or does not fit the photo.
        """
        out = []
        for a in self._annotations[photo.image_id]:
            where = f"{self.path}: annotation {a.get('id', '?')} of {photo.name}"
            out.append(_entity(a, read_mask(a.get("segmentation"), photo.height, photo.width, where), where))
        return out


class PanopticTruth(MaskTruth):
    """Panoptic form of COCO: one PNG holds the segments of a photo. Every segment but 0 (void) is an entity.

    Args:
        path: The JSON file.
        photos: Photos, in the order of their ids.
        annotations: Annotations as the file has them, by image id.
        pngs: Folder of the PNG files.
    """

    form = "coco-panoptic"

    def __init__(
        self, path: Path, photos: Sequence[TruePhoto], annotations: Mapping[int, Sequence[dict[str, Any]]], pngs: Path
    ) -> None:
        super().__init__(path, photos, annotations)
        self._pngs = pngs

    def entities(self, photo: TruePhoto) -> list[dict[str, Any]]:
        """Return the segments of a photo as COCO annotations; see ``MaskTruth.entities``.

        Args:
            photo: A photo of this ground truth.

        Raises:
            InputError: PNG and JSON disagree.
        """
        return [entity for a in self._annotations[photo.image_id] for entity in self._segments(photo, a)]

    def _segments(self, photo: TruePhoto, annotation: Mapping[str, Any]) -> list[dict[str, Any]]:
        png = self._pngs / str(annotation.get("file_name"))
        rgb = read_png(png)
        if rgb.shape != (photo.height, photo.width, 3):
            found = " x ".join(map(str, rgb.shape[1::-1] + rgb.shape[2:]))
            raise InputError(
                f"{png}: is {found}; expected {photo.width} x {photo.height} x 3, as in {self.path}. Check the files."
            )
        ids = np.asfortranarray(rgb.astype(np.int64) @ np.array([1, 1 << 8, 1 << 16]))
        segments = {s["id"]: s for s in annotation["segments_info"]}
        present = set(np.unique(ids).tolist()) - {0}
        if present != set(segments):
            odd = min(present ^ set(segments))
            why = f"is not listed in {self.path}" if odd in present else f"is listed in {self.path} but has no pixels"
            raise InputError(f"{png}: segment {odd} {why}. Give PNGs and JSON of one data set.")
        return [
            _entity(
                segment,
                coco_mask.encode((ids == number).astype(np.uint8, order="F")),
                f"{self.path}: segment {number} of {photo.name}",
            )
            for number, segment in segments.items()
        ]


def read_coco(path: Path, pngs: Path | None = None) -> MaskTruth:
    """Read ground truth from a JSON file of COCO; see ``read_truth``.

    Args:
        path: The JSON file.
        pngs: Folder of the PNG files of panoptic ground truth; by default the folder beside the JSON with its name.

    Raises:
        InputError: The file is no such ground truth.
    """
    data = read_json(path)
    lists = isinstance(data, dict) and all(isinstance(data.get(key), list) for key in ("images", "annotations"))
    if not lists:
        raise InputError(
            f"{path}: holds {describe(data)}; expected COCO's ground truth with images and annotations. Check the path."
        )
    photos = sorted((_photo(path, entry) for entry in data["images"]), key=lambda photo: photo.image_id)
    twice = [image_id for image_id, count in Counter(photo.image_id for photo in photos).items() if count > 1]
    if twice:
        raise InputError(f"{path}: two images have the id {twice[0]}; expected unique ids. Write the file again.")
    panoptic = any(isinstance(a, dict) and "segments_info" in a for a in data["annotations"][:1])
    by_photo: dict[int, list[dict[str, Any]]] = {photo.image_id: [] for photo in photos}
    for number, annotation in enumerate(data["annotations"], 1):
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image_id, int) or image_id not in by_photo:
            raise InputError(
                f"{path}: annotation {number} has image_id {image_id!r}; expected one of the file's {len(photos)} "
                "images. Write the file again."
            )
        if panoptic:
            _check_segments(annotation, f"{path}: annotation {number}")
        by_photo[image_id].append(annotation)
    if not panoptic:
        return MaskTruth(path, photos, by_photo)
    pngs = pngs or path.with_suffix("")
    if not pngs.is_dir():
        raise InputError(f"{pngs}: no such folder; expected the PNGs of {path.name}. Give their folder with --pngs.")
    return PanopticTruth(path, photos, by_photo, pngs)


def _photo(path: Path, entry: object) -> TruePhoto:
    if isinstance(entry, dict):
        name, numbers = entry.get("file_name"), [entry.get(key) for key in ("id", "width", "height")]
        image_id, width, height = (n if isinstance(n, int) else -1 for n in numbers)
        if isinstance(name, str) and name and image_id >= 0 and min(width, height) > 0:
            return TruePhoto(image_id, name, width, height)
    raise InputError(
        f"{path}: an image is {repr(entry)[:80]}; expected id, file_name, width and height. Write the file again."
    )


def _check_segments(annotation: Mapping[str, Any], where: str) -> None:
    segments = annotation.get("segments_info")
    if not isinstance(segments, list) or not all(
        isinstance(s, dict) and isinstance(s.get("id"), int) for s in segments
    ):
        raise InputError(
            f"{where}: segments_info is {repr(segments)[:60]}; expected a list of segments with ids. "
            "Write the file again."
        )


def _entity(annotation: Mapping[str, Any], mask: dict[str, Any], where: str) -> dict[str, Any]:
    """An annotation with a checked mask. ``area`` stays COCO's number if given: for polygons, the polygon's area."""
    area, crowd = annotation.get("area"), annotation.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise InputError(f"{where}: iscrowd is {crowd!r}; expected 0 or 1. Write the file again.")
    area = area if isinstance(area, int | float) else coco_mask.area(mask)
    return {"segmentation": mask, "area": float(area), "iscrowd": int(crowd)}
