"""EMR, entity-level mask refinement (E-SAM §3.3): split overlapping masks, then merge masks of one entity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.dedup import leaders
from esam_rt.kernels.merge import encompassing
from esam_rt.kernels.sampling import points_in_overlaps
from esam_rt.kernels.similarity import most_similar, pair_similarity, touching_pairs
from esam_rt.kernels.split import split_overlaps
from esam_rt.masks import Level, MaskSet
from esam_rt.method.grid_entities import GridEntities, sources_of
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.superpixels import SuperpixelMap
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.settings import Emr
from esam_rt.stages import Stage


def refine_entities(
    objects: MaskSet, gallery: PromptSet, encoded: EncodedImage, pixels: SuperpixelMap, settings: Emr, min_area: int
) -> GridEntities:
    """Run EMR (M_E of E-SAM eq. 8).

    A lazy gallery decodes at most ``settings.votes`` prompts for each overlap, and then for each pair that may merge.
    An exact gallery decodes all of its prompts.

    Args:
        objects: Object masks of the coarse grid.
        gallery: Masks of the fine grid.
        encoded: The image.
        pixels: Superpixels of the image.
        settings: Numbers of EMR.
        min_area: Smaller fragments and smaller entities disappear, in cells.
    """
    if settings.gallery == "exact":
        gallery.ask_all()
    else:
        o = objects
        gallery.ask(points_in_overlaps(o.bits, o.box_xyxy, gallery.cells_yx, gallery.order, settings.votes))
    votes = guidance_votes(gallery.masks, len(gallery), settings)
    entities = split_objects(objects, gallery.masks, gallery.cells_yx, votes, settings, min_area)
    return merge_entities(entities, gallery, encoded, pixels, settings, min_area)


def guidance_votes(fine: MaskSet, point_count: int, settings: Emr) -> NDArray[np.int32]:
    """Return the gallery mask that each fine prompt votes for (E-SAM eq. 6).

    It is the prompt's object mask if that scores less than ``tau`` below its best mask, else its best mask. Nearly
    equal masks count as one.

    Args:
        fine: Gallery masks.
        point_count: Number of fine prompts, P.
        settings: Numbers of EMR.

    Returns:
        int32 [P], indices into ``fine``; -1 if no mask of the prompt is of high confidence.
    """
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


def split_objects(
    objects: MaskSet,
    fine: MaskSet,
    point_yx: NDArray[np.int32],
    votes: NDArray[np.int32],
    settings: Emr,
    min_area: int,
) -> GridEntities:
    """Resolve overlaps: each goes to one of its masks, or the two become one entity (E-SAM eq. 5 and 6).

    Args:
        objects: Object masks.
        fine: Gallery masks.
        point_yx: int32 [P, 2], the cell of each fine prompt.
        votes: int32 [P], see ``guidance_votes``.
        settings: Numbers of EMR.
        min_area: Smaller fragments and smaller entities disappear, in cells.
    """
    rank = np.empty(len(fine), np.int64)
    rank[fine.by_score()] = np.arange(len(fine))
    order = objects.by_score()
    bits, taken_by = split_overlaps(
        objects.bits, objects.box_xyxy, objects.area, order, fine.bits, fine.box_xyxy, fine.area, rank, point_yx, votes,
        settings.delta, settings.cover,
    )  # fmt: skip
    sources = sources_of(objects)
    for q in np.flatnonzero(taken_by >= 0):  # a merged mask never absorbed others: masks go in score order
        sources[taken_by[q]] += sources[q]
    stage = np.full(len(objects), Stage.EMR, np.uint8)
    return GridEntities.of(bits, objects.width, objects.predicted_iou, stage, sources, min_area)


def merge_entities(
    entities: GridEntities,
    gallery: PromptSet,
    encoded: EncodedImage,
    pixels: SuperpixelMap,
    settings: Emr,
    min_area: int,
) -> GridEntities:
    """Join adjacent, similar entities that a gallery mask shows as one (E-SAM eq. 7 and 8).

    Args:
        entities: Entities after the split.
        gallery: Masks of the fine grid.
        encoded: The image.
        pixels: Superpixels of the image.
        settings: Numbers of EMR.
        min_area: Smaller fragments and smaller entities disappear, in cells.
    """
    labels = entities.labels()
    candidates = _similar_pairs(entities, labels, encoded, pixels, settings)
    is_shown = _shown_as_one(entities, candidates, gallery.masks, settings)
    if settings.gallery == "lazy":
        gallery.ask(_points_in_pairs(candidates[~is_shown], labels, gallery, settings.votes))
        is_shown = _shown_as_one(entities, candidates, gallery.masks, settings)
    return _joined(entities, candidates[is_shown], min_area)


def _similar_pairs(
    entities: GridEntities, labels: NDArray[np.int32], encoded: EncodedImage, pixels: SuperpixelMap, settings: Emr
) -> NDArray[np.int64]:
    """Pairs [C, 2] of entities that touch and look alike (eq. 7)."""
    nearest = most_similar(encoded.features_at(pixels.centroid_norm_xy), settings.top_k)
    y, x = encoded.geometry.to_cell_yx(pixels.centroid_norm_xy).T
    owner = (labels[y, x] - 1).astype(np.int32)
    # By pairs that touch: matrices of all masks are 0.3 ms faster for 100 of them, and quadratic.
    pairs = touching_pairs(labels)
    s_m = pair_similarity(nearest, owner, pairs, len(entities))
    return np.asarray(pairs[s_m.max(axis=1, initial=0) >= settings.similarity_min], np.int64)


def _shown_as_one(entities: GridEntities, pairs: NDArray[np.int64], fine: MaskSet, settings: Emr) -> NDArray[np.bool_]:
    """bool [C]: some gallery mask shows the pair as one entity (eq. 8)."""
    e = entities
    mask = encompassing(
        e.bits, e.box_xyxy, e.area, pairs, fine.bits, fine.box_xyxy, fine.area, settings.encompass, settings.fill
    )
    return mask >= 0


def _points_in_pairs(
    pairs: NDArray[np.int64], labels: NDArray[np.int32], gallery: PromptSet, most: int
) -> NDArray[np.bool_]:
    """bool [P]: the first `most` prompts in the gallery's order inside each pair of entities."""
    wanted = np.zeros(len(gallery), bool)
    y, x = gallery.cells_yx[gallery.order].T
    owner = labels[y, x] - 1
    for pair in pairs:
        wanted[gallery.order[np.isin(owner, pair)][:most]] = True
    return wanted


def _joined(entities: GridEntities, pairs: NDArray[np.int64], min_area: int) -> GridEntities:
    """Join the entities of pairs [C, 2]. Joining is transitive, so the order of the pairs does not matter."""
    count = len(entities)
    parent = np.arange(count)
    for a, b in pairs:
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
