"""Which detections of a photo match its ground truth, by pycocotools."""

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
    """COCO's verdict on a photo, class-agnostic, for S sizes and T IoU thresholds.

    score: float64 [D], descending, of the 100 best detections. matched, ignored: bool [S, T, D]; what is ignored counts
    neither as right nor as wrong. positives: int64 [S], entities to be found. detections: of the photo, all of them.
    """

    score: NDArray[np.float64]
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    positives: NDArray[np.int64]
    detections: int

    def found(self, threshold: int = 0) -> int:
        """Entities that were found at IOU_THRESHOLDS[threshold]."""
        return int((self.matched[0, threshold] & ~self.ignored[0, threshold]).sum())


def match_photo(entities: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]]) -> PhotoMatches:
    """Match the detections of one photo with its entities; categories do not count.

    entities: COCO annotations with `segmentation` (compressed RLE), where given `area` in pixels (else the mask's) and
    `iscrowd` (1: an ignore region, which detections may lie in unpunished). detections: `segmentation` and `score`, as
    `EntityMap.to_coco` makes them; their size is that of the mask, not of the box as pycocotools' `loadRes` takes it.
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
    """Ids count from 1: to pycocotools, a match with id 0 is none."""
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
    """Of `COCOeval.evalImgs` of one photo, a dict a size."""
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
