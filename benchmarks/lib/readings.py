"""Other readings of the paper at points that it leaves open. Each changes one setting or replaces one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from esam_rt import pipeline
from esam_rt.kernels.bits import areas_and_boxes
from esam_rt.masks import MaskSet
from esam_rt.method import emr, mmg
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.mmg import MultiLevelMasks
from esam_rt.method.superpixels import SuperpixelMap
from esam_rt.settings import Mmg, Usr

SAM_NMS = 0.7
Patches = tuple[tuple[Any, str, Callable[..., Any]], ...]


def box_nms(
    bits: object,
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.integer],
    iou_max_n: NDArray[np.floating],
) -> NDArray[np.int64]:
    """Suppress by the IoU of boxes, as SAM's own mask generation does. Replaces `adaptive_nms`."""
    boxes = box.astype(np.int64)
    size = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept: list[int] = []
    for m in order[area[order] > 0].tolist():
        others = np.array(kept, np.int64)
        corner = np.minimum(boxes[others, 2:], boxes[m, 2:]) - np.maximum(boxes[others, :2], boxes[m, :2])
        shared = corner.clip(0).prod(axis=1)
        if (shared <= iou_max_n[m] * (size[others] + size[m] - shared)).all():
            kept.append(m)
    return np.array(kept, np.int64)


def greedy_box_nms(bits: Any, box: Any, area: Any, order: Any, iou_max: float) -> NDArray[np.int64]:
    """Suppress by the IoU of boxes. Replaces `greedy_nms`."""
    return box_nms(bits, box, area, order, np.full(len(box), iou_max))


def best_after_nms(coarse: MaskSet, pixels: SuperpixelMap, settings: Mmg) -> MultiLevelMasks:
    """Run MMG with B (eq. 2) made of the best masks that NMS keeps."""
    by_score = coarse.by_score()
    kept = mmg.greedy_nms(coarse.bits, coarse.box_xyxy, coarse.area, by_score[coarse.is_best[by_score]], SAM_NMS)
    best = np.zeros(len(coarse), bool)
    best[kept] = True
    return mmg.multi_level_masks(replace(coarse, is_best=best), pixels, settings)


def ranked_density(self: SuperpixelMap, w_max: float) -> NDArray[np.float32]:
    """Compute M_D (eq. 3) with weights by rank of area: w_max for the smallest superpixel, 0 for the largest."""
    rank = np.empty(len(self), np.float32)
    rank[np.argsort(self.area, kind="stable")] = np.linspace(1, 0, len(self), dtype=np.float32)
    return np.asarray((w_max * rank)[self.labels_hw], np.float32)


def no_votes(fine: MaskSet, point_count: int, settings: object) -> NDArray[np.int32]:
    """Give no guidance (eq. 6): overlaps go to the mask with the better score."""
    return np.full(point_count, -1, np.int32)


def mostly_new(entities: GridEntities, additional: MaskSet, settings: Usr, min_area: int) -> GridEntities:
    """Run USR with only those masks that have at least half of their area in the gaps."""
    inside, _ = areas_and_boxes(additional.bits & ~entities.covered())
    return fill_gaps(entities, additional.select(2 * inside >= additional.area), settings, min_area)


def by_score(entities: GridEntities, additional: MaskSet, settings: Usr, min_area: int) -> GridEntities:
    """Run USR by score instead of newly covered area: masks that cover enough are taken best first."""
    for m in additional.by_score():
        entities = fill_gaps(entities, additional.select(np.array([m])), settings, min_area)
    return entities


fill_gaps = pipeline.fill_gaps
READINGS: dict[str, dict[str, object] | Patches] = {
    "as it is": {},
    "NMS by boxes": ((mmg, "greedy_nms", greedy_box_nms), (mmg, "adaptive_nms", box_nms)),
    "B after NMS": ((pipeline, "multi_level_masks", best_after_nms),),
    "density by rank": ((SuperpixelMap, "density_map", ranked_density),),
    "no density": {"mmg.w_max": 0},
    "density up to 0.7": {"mmg.w_max": 0.7},
    "N_t 0.7": {"mmg.n_t": 0.7},
    "no guidance": ((emr, "guidance_votes", no_votes),),
    "guidance by objects alone": {"emr.tau": 1},
    "votes for equal masks alone": {"emr.vote_iou": 1},
    "covered from 0.6": {"emr.cover": 0.6},
    "covered from 0.95": {"emr.cover": 0.95},
    "nothing merged": {"emr.similarity_min": 100},
    "k 3": {"emr.top_k": 3},
    "k 10": {"emr.top_k": 10},
    "similar from 0.5": {"emr.similarity_min": 0.5},
    "similar from 2": {"emr.similarity_min": 2},
    "encompassed from 0.75": {"emr.encompass": 0.75},
    "encompassed from 0.95": {"emr.encompass": 0.95},
    "filled from 0.5": {"emr.fill": 0.5},
    "filled from 0.9": {"emr.fill": 0.9},
    "prompts where 20 % are free": {"usr.outside": 0.2},
    "prompts where 80 % are free": {"usr.outside": 0.8},
    "held from 0.8": {"usr.inside": 0.8},
    "cover: 0.5 % at least": {"usr.gain_min": 0.005},
    "cover: any gain": {"usr.gain_min": 0},
    "cover: half new at least": ((pipeline, "fill_gaps", mostly_new),),
    "cover: by score": ((pipeline, "fill_gaps", by_score),),
    "cover: no mask joins": {"usr.rho": 1},
}


def changes(name: str) -> Mapping[str, object]:
    """Return the settings that a reading changes."""
    reading = READINGS[name]
    return reading if isinstance(reading, dict) else {}


@contextmanager
def in_place(name: str) -> Iterator[None]:
    """Replace the functions of a reading within the context."""
    reading = READINGS[name]
    with ExitStack() as stack:
        for place, attribute, function in () if isinstance(reading, dict) else reading:
            stack.enter_context(patch.object(place, attribute, function))
        yield
