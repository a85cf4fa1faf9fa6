"""EMR, entity-level mask refinement (E-SAM §3.3): split what overlaps, merge what belongs together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.dedup import leaders
from esam_rt.kernels.merge import encompassing
from esam_rt.kernels.sampling import points_in_overlaps
from esam_rt.kernels.similarity import most_similar, pair_similarity, touching_pairs
from esam_rt.kernels.split import split_overlaps
from esam_rt.masks import Level, MaskSet
from esam_rt.method.gallery import Gallery
from esam_rt.method.grid_entities import GridEntities, sources_of
from esam_rt.method.superpixels import SuperpixelMap
from esam_rt.sam.encoded_image import EncodedPhoto
from esam_rt.settings import Emr
from esam_rt.stages import Stage


def refine_entities(
    objects: MaskSet, gallery: Gallery, photo: EncodedPhoto, pixels: SuperpixelMap, settings: Emr, min_area: int
) -> GridEntities:
    """M_E (eq. 8) from the object masks of the coarse grid and the gallery.

    A lazy gallery decodes of every overlap, and then of every pair that may merge, at most settings.votes prompts. An
    exact one decodes all of its prompts.
    """
    if settings.gallery == "exact":
        gallery.ask_all()
    else:
        o = objects
        gallery.ask(points_in_overlaps(o.bits, o.box_xyxy, gallery.cells_yx, gallery.order, settings.votes))
    votes = _votes(gallery.masks, len(gallery), settings)
    entities = _split(objects, gallery.masks, gallery.cells_yx, votes, settings, min_area)
    return _merge(entities, gallery, photo, pixels, settings, min_area)


def _votes(fine: MaskSet, point_count: int, settings: Emr) -> NDArray[np.int32]:
    """The gallery mask of each fine prompt (eq. 6), int32 [P]: its object mask when that scores less than tau below its
    best one, else its best; -1 where neither is of high confidence. Nearly equal masks are one: the leader's index."""
    object_of = np.full(point_count, -1, np.int64)
    best_of = np.full(point_count, -1, np.int64)
    is_object = np.flatnonzero(fine.level == Level.OBJECT)
    object_of[fine.prompt_index[is_object]] = is_object
    is_best = np.flatnonzero(fine.is_best)
    best_of[fine.prompt_index[is_best]] = is_best
    score = np.append(fine.predicted_iou, np.float32(-1e6))  # index -1: a mask that failed the filters
    chosen = np.where((score[best_of] - score[object_of] < settings.tau) & (object_of >= 0), object_of, best_of)
    voted = np.unique(chosen[chosen >= 0])
    order = voted[np.argsort(-fine.predicted_iou[voted], kind="stable")]
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
    for q in np.flatnonzero(taken_by >= 0):  # none of which took in others: what is taken in has its turn later
        sources[taken_by[q]] += sources[q]
    stage = np.full(len(objects), Stage.EMR, np.uint8)
    return GridEntities.of(bits, objects.width, objects.predicted_iou, stage, sources, min_area)


def _merge(
    entities: GridEntities,
    gallery: Gallery,
    photo: EncodedPhoto,
    pixels: SuperpixelMap,
    settings: Emr,
    min_area: int,
) -> GridEntities:
    """Join adjacent, similar entities that a gallery mask shows as one (eq. 7 and 8)."""
    count = len(entities)
    labels = entities.labels()
    nearest = most_similar(photo.features_at(pixels.centroid_norm_xy), settings.top_k)
    y, x = photo.geometry.to_cell_yx(pixels.centroid_norm_xy).T
    owner = (labels[y, x] - 1).astype(np.int32)
    # By pairs that touch: matrices of all masks are 0.3 ms faster for 100 of them, and quadratic.
    pairs = touching_pairs(labels)
    s_m = pair_similarity(nearest, owner, pairs, count)
    candidates = pairs[s_m.max(axis=1, initial=0) >= settings.similarity_min]
    found = _encompassed(entities, candidates, gallery.masks, settings)
    if settings.gallery == "lazy":
        gallery.ask(_points_in_pairs(candidates[~found], labels, gallery, settings.votes))
        found = _encompassed(entities, candidates, gallery.masks, settings)
    parent = np.arange(count)
    for a, b in candidates[found]:  # transitive, so in any order
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


def _encompassed(entities: GridEntities, pairs: NDArray[np.int64], fine: MaskSet, settings: Emr) -> NDArray[np.bool_]:
    """Which pairs [C, 2] some gallery mask shows as one (eq. 8): bool [C]."""
    e = entities
    return (
        encompassing(
            e.bits, e.box_xyxy, e.area, pairs, fine.bits, fine.box_xyxy, fine.area, settings.encompass, settings.fill
        )
        >= 0
    )


def _points_in_pairs(
    pairs: NDArray[np.int64], labels: NDArray[np.int32], gallery: Gallery, most: int
) -> NDArray[np.bool_]:
    """Of each pair [C, 2] of entities the first `most` prompts of the gallery's order inside them: bool [P]."""
    wanted = np.zeros(len(gallery), bool)
    y, x = gallery.cells_yx[gallery.order].T
    owner = labels[y, x] - 1
    for pair in pairs:
        wanted[gallery.order[np.isin(owner, pair)][:most]] = True
    return wanted


def _root(parent: NDArray[np.intp], i: int) -> int:
    while parent[i] != i:
        i = int(parent[i])
    return int(i)
