"""EMR, entity-level mask refinement (E-SAM §3.3): split what overlaps, merge what belongs together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .entities import Stage
from .grid import GridEntities, sources_of
from .kernels.similarity import adjacent, mask_similarity, most_similar
from .kernels.split import encompassing, leaders, split_overlaps
from .masks import Level, MaskSet
from .sam import EncodedPhoto
from .settings import Emr
from .superpixels import SuperpixelMap


def refine_entities(
    objects: MaskSet,
    fine: MaskSet,
    fine_points_01: NDArray[np.float32],
    first_fine_point: int,
    photo: EncodedPhoto,
    pixels: SuperpixelMap,
    settings: Emr,
    min_area: int,
) -> GridEntities:
    """M_E (eq. 8) from the object masks of the coarse grid and the gallery `fine`: the high-confidence object and best
    masks of the fine grid, whose prompts [P, 2] are numbered from first_fine_point."""
    votes = _votes(fine, len(fine_points_01), first_fine_point, settings)
    cells = photo.geometry.to_cell_yx(fine_points_01)
    entities = _split(objects, fine, cells, votes, settings, min_area)
    return _merge(entities, fine, photo, pixels, settings, min_area)


def _votes(fine: MaskSet, point_count: int, first_point: int, settings: Emr) -> NDArray[np.int32]:
    """The gallery mask of each fine prompt (eq. 6), int32 [P]: its object mask when that scores less than tau below its
    best one, else its best; -1 where neither is of high confidence. Nearly equal masks are one: the leader's index."""
    object_of = np.full(point_count, -1, np.int64)
    best_of = np.full(point_count, -1, np.int64)
    is_object = np.flatnonzero(fine.level == Level.OBJECT)
    object_of[fine.point[is_object] - first_point] = is_object
    is_best = np.flatnonzero(fine.best)
    best_of[fine.point[is_best] - first_point] = is_best
    score = np.append(fine.score, np.float32(-1e6))  # index -1: a mask that failed the filters
    chosen = np.where((score[best_of] - score[object_of] < settings.tau) & (object_of >= 0), object_of, best_of)
    voted = np.unique(chosen[chosen >= 0])
    order = voted[np.argsort(-fine.score[voted], kind="stable")]
    leader = np.append(leaders(fine.bits, fine.box_xyxy, fine.area, order, settings.vote_iou), np.int32(-1))
    return leader[chosen].astype(np.int32)


def _split(
    objects: MaskSet,
    fine: MaskSet,
    point_yx: NDArray[np.int32],
    votes: NDArray[np.int32],
    settings: Emr,
    min_area: int,
) -> GridEntities:
    """Non-overlapping masks (eq. 5 and 6)."""
    rank = np.empty(len(fine), np.int64)
    rank[fine.by_score()] = np.arange(len(fine))
    order = objects.by_score()
    bits, taken_by = split_overlaps(
        objects.bits, objects.box_xyxy, objects.area, order, fine.bits, fine.box_xyxy, fine.area, rank, point_yx, votes,
        settings.delta, settings.cover,
    )  # fmt: skip
    sources = sources_of(objects)
    for q in order[::-1]:  # the lowest score first: what a mask took in has by then collected its own
        if taken_by[q] >= 0:
            sources[taken_by[q]] += sources[q]
    stage = np.full(len(objects), Stage.EMR, np.uint8)
    return GridEntities.of(bits, objects.width, objects.score, stage, sources, min_area)


def _merge(
    entities: GridEntities,
    fine: MaskSet,
    photo: EncodedPhoto,
    pixels: SuperpixelMap,
    settings: Emr,
    min_area: int,
) -> GridEntities:
    """Join adjacent, similar entities that a gallery mask shows as one (eq. 7 and 8)."""
    count = len(entities)
    labels = entities.labels()
    nearest = most_similar(photo.features_at(pixels.centroid_01), settings.top_k)
    y, x = photo.geometry.to_cell_yx(pixels.centroid_01).T
    owner = (labels[y, x] - 1).astype(np.int32)
    s_m = mask_similarity(nearest, owner, count)
    strength = np.maximum(s_m, s_m.T)
    candidates = np.argwhere(np.triu(adjacent(labels, count) & (strength >= settings.similarity_min), 1))
    found = encompassing(
        entities.bits, entities.box_xyxy, entities.area, candidates, fine.bits, fine.box_xyxy, fine.area,
        settings.encompass, settings.fill,
    )  # fmt: skip
    parent = np.arange(count)
    for a, b in candidates[found >= 0]:  # transitive, so in any order
        roots = _root(parent, a), _root(parent, b)
        parent[max(roots)] = min(roots)
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(_root(parent, i), []).append(i)
    return GridEntities.of(
        np.array([np.bitwise_or.reduce(entities.bits[g]) for g in groups.values()], np.uint64).reshape(
            -1, *entities.bits.shape[1:]
        ),
        entities.width,
        np.array([np.average(entities.score[g], weights=entities.area[g]) for g in groups.values()], np.float32),
        np.full(len(groups), Stage.EMR, np.uint8),
        [tuple(s for i in g for s in entities.sources[i]) for g in groups.values()],
        min_area,
    )


def _root(parent: NDArray[np.intp], i: int) -> int:
    while parent[i] != i:
        i = int(parent[i])
    return int(i)
