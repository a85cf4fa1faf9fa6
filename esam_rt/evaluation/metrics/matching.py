"""Matches the detections of a photo with its ground truth, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

_PARAMS = Params(iouType="segm")
IOU_THRESHOLDS: NDArray[np.float64] = _PARAMS.iouThrs  # 0.50, 0.55, … 0.95
RECALLS: NDArray[np.float64] = _PARAMS.recThrs  # 0.00, 0.01, … 1.00
SIZES: tuple[str, ...] = tuple(_PARAMS.areaRngLbl)  # all, small (up to 32²), medium (32² to 96²), large (from 96²)
MAX_DETECTIONS: int = _PARAMS.maxDets[-1]


@dataclass(frozen=True, eq=False)
class PhotoMatches:
    """Matches of one photo, class-agnostic, for S sizes, T IoU thresholds and the D best detections, at most 100.

    Attributes:
        score: float64 [D], descending.
        matched: bool [S, T, D], True if the detection matches an entity.
        ignored: bool [S, T, D], True if the detection counts neither as right nor as wrong.
        positives: int64 [S], number of entities to find.
        detections: Number of all detections of the photo.
    """

    score: NDArray[np.float64]
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    positives: NDArray[np.int64]
    detections: int

    def found(self, threshold: int = 0) -> int:
        """Return the number of entities found at ``IOU_THRESHOLDS[threshold]``.

        Args:
            threshold: Index of an IoU threshold.
        """
        return int((self.matched[0, threshold] & ~self.ignored[0, threshold]).sum())


def match_photo(entities: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]) -> PhotoMatches:
    """Match the detections of one photo with its entities; categories do not count.

    Args:
        entities: COCO annotations with ``segmentation`` (compressed RLE), optional ``area`` in pixels (default: the
            mask's) and optional ``iscrowd`` (1: an ignore region; detections inside it are ignored).
        detections: COCO annotations with ``segmentation`` and ``score``, as from ``EntityMap.to_coco``. A detection's
            size is its mask's area, unlike in ``loadRes`` of pycocotools.
    """
    if not entities and not detections:
        return _matches([None] * len(SIZES), 0)
    truth = [_annotation(i, e, float(e["area"]) if "area" in e else None) for i, e in enumerate(entities)]
    found = [_annotation(i, d, None) | {"score": float(d["score"])} for i, d in enumerate(detections)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth), _coco(found), "segm")
        evaluation.params.useCats = 0
        evaluation.params.imgIds = [1]
        evaluation.evaluate()
    return _matches(evaluation.evalImgs, len(detections))


def _annotation(index: int, given: Mapping[str, Any], area: float | None) -> dict[str, Any]:
    """An annotation for pycocotools. Ids begin at 1, because pycocotools takes id 0 for no match."""
    mask = given["segmentation"]
    return {
        "id": index + 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": mask,
        "area": float(coco_mask.area(mask)) if area is None else area,
        "iscrowd": int(given.get("iscrowd", 0)),
    }


def _coco(annotations: list[dict[str, Any]]) -> COCO:
    """A data set of one photo."""
    coco = COCO()
    height, width = annotations[0]["segmentation"]["size"] if annotations else (1, 1)
    images = [{"id": 1, "height": height, "width": width}]
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    coco.createIndex()
    return coco


def _matches(by_size: Sequence[dict[str, Any] | None], detections: int) -> PhotoMatches:
    """Matches from ``COCOeval.evalImgs`` of one photo: one dict for each size."""
    first = by_size[0]
    score = np.array(first["dtScores"] if first else [], np.float64)
    shape = len(SIZES), len(IOU_THRESHOLDS), len(score)
    matched, ignored, positives = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(len(SIZES), np.int64)
    for s, verdict in enumerate(by_size):
        if verdict is not None:
            matched[s] = verdict["dtMatches"] > 0
            ignored[s] = verdict["dtIgnore"]
            positives[s] = np.count_nonzero(verdict["gtIgnore"] == 0)
    return PhotoMatches(score, matched, ignored, positives, detections)
