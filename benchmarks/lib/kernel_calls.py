"""The calls to compare for each kernel: ours, its oracle in plain NumPy, and the library that people would use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.lib.recording import Recording
from benchmarks.lib.superpixel_libraries import SIDES, ours
from esam_rt.kernels.bits import areas_and_boxes, unpack
from esam_rt.kernels.containment import smallest_holders
from esam_rt.kernels.dedup import leaders
from esam_rt.kernels.fragments import without_fragments
from esam_rt.kernels.iou import best_iou, block_counts
from esam_rt.kernels.mask_means import mask_means
from esam_rt.kernels.merge import encompassing
from esam_rt.kernels.nms import adaptive_nms, greedy_nms
from esam_rt.kernels.sampling import points_in_overlaps
from esam_rt.kernels.set_cover import greedy_cover
from esam_rt.kernels.similarity import most_similar, pair_similarity, touching_pairs
from esam_rt.kernels.split import split_overlaps
from esam_rt.masks import Level, MaskSet
from esam_rt.method.emr import guidance_votes
from esam_rt.method.grid_entities import GridEntities
from esam_rt.stages import Stage
from tests.kernels import oracles

NUMPY = "NumPy"
Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One kernel: our call, the calls of other sides, and a test if two answers are equal."""

    kernel: str
    ours: Call
    others: dict[str, Call]
    same: Callable[[Any, Any], bool] = np.array_equal


def rows(recording: Recording, most: int, seed: int = 0) -> list[Row]:
    """List the calls of all kernels on one recording.

    Args:
        recording: The recorded masks of a photo.
        most: Largest number of masks, chosen at random.
        seed: Seed of the choice.

    Returns:
        One row per kernel.
    """
    rng = np.random.default_rng(seed)

    def some(masks: MaskSet, limit: int = most) -> MaskSet:
        return masks.select(np.sort(rng.permutation(len(masks))[:limit]))

    s, pixels = recording.settings, recording.pixels
    masks = some(recording.coarse)
    m = masks.bits, masks.box_xyxy, masks.area
    dense, order = masks.to_bool(), masks.by_score()
    fine = some(recording.fine)
    f, dense_fine = (fine.bits, fine.box_xyxy, fine.area), fine.to_bool()
    objects = recording.coarse.at_level(Level.OBJECT)
    kept = greedy_nms(objects.bits, objects.box_xyxy, objects.area, objects.by_score(), s.mmg.theta_o)[:60]
    objects = objects.select(kept)
    o, dense_objects = (objects.bits, objects.box_xyxy, objects.area), objects.to_bool()
    entities = GridEntities.by_score(objects, Stage.EMR, s.filters.min_area)
    e, dense_entities = (entities.bits, entities.box_xyxy, entities.area), unpack(entities.bits, entities.width)
    every_pair = np.argwhere(np.triu(np.ones((len(entities), len(entities)), bool), 1))
    density = pixels.density_map(s.mmg.w_max)
    thresholds = np.maximum(s.mmg.n_t, mask_means(*m[:2], np.arange(len(masks)), density)).astype(np.float64)
    gallery = recording.gallery()
    gallery.ask_all()
    cells_yx, points = gallery.cells_yx, len(gallery)
    votes = guidance_votes(gallery.masks, points, s.emr)
    all_fine = gallery.masks
    rank = np.argsort(np.argsort(-all_fine.predicted_iou, kind="stable"))
    dense_all_fine = all_fine.to_bool()
    labels = pixels.labels_hw
    need = 0.95 * np.bincount(labels.ravel(), minlength=len(pixels))
    pairs = touching_pairs(labels + 1)
    features = recording.photo.features_at(pixels.centroid_norm_xy)
    nearest = most_similar(features, s.emr.top_k)
    y, x = recording.photo.geometry.to_cell_yx(pixels.centroid_norm_xy).T
    owner = labels[y, x]
    few = pairs[:most]
    nothing = np.zeros(masks.grid_hw, bool)
    runs, fine_runs = _run_lengths(dense), _run_lengths(dense_fine)
    noisy = dense ^ (rng.random(dense.shape) < 0.002)
    noisy_bits = MaskSet.from_bool(noisy).bits

    return [
        Row(
            "areas_and_boxes",
            lambda: areas_and_boxes(masks.bits),
            {NUMPY: lambda: (dense.sum((1, 2)), oracles.dense_boxes(dense))},
            lambda a, b: all(map(np.array_equal, a, b)),
        ),
        Row(
            "best_iou",
            lambda: best_iou(*m, *f)[0],
            {
                NUMPY: lambda: oracles.dense_iou(dense, dense_fine).max(1),
                "pycocotools": lambda: coco_mask.iou(runs, fine_runs, [0] * len(fine_runs)).max(1),
            },
            np.allclose,
        ),
        Row(
            "greedy_nms",
            lambda: greedy_nms(*m, order, 0.7),
            {NUMPY: lambda: oracles.dense_nms(dense, order, np.full(len(masks), 0.7)), **_box_nms(masks)},
        ),
        Row(
            "adaptive_nms",
            lambda: adaptive_nms(*m, order, thresholds),
            {NUMPY: lambda: oracles.dense_nms(dense, order, thresholds)},
        ),
        Row(
            "mask_means",
            lambda: mask_means(*m[:2], order, density),
            {NUMPY: lambda: oracles.dense_means(dense[order], density)},
            np.allclose,
        ),
        Row(
            "block_counts",
            lambda: block_counts(*m[:2], order),
            {NUMPY: lambda: oracles.dense_block_counts(dense[order])},
        ),
        Row(
            "leaders",
            lambda: leaders(*f, fine.by_score(), s.emr.vote_iou),
            {NUMPY: lambda: oracles.dense_leaders(dense_fine, fine.by_score(), s.emr.vote_iou)},
        ),
        Row(
            "points_in_overlaps",
            lambda: points_in_overlaps(*o[:2], cells_yx, gallery.order, s.emr.votes),
            {NUMPY: lambda: oracles.dense_points_in_overlaps(dense_objects, cells_yx, gallery.order, s.emr.votes)},
        ),
        Row(
            "split_overlaps",
            lambda: split_overlaps(
                *o,
                objects.by_score(),
                all_fine.bits,
                all_fine.box_xyxy,
                all_fine.area,
                rank,
                cells_yx,
                votes,
                s.emr.delta,
                s.emr.cover,
            )[1],
            {
                NUMPY: lambda: oracles.dense_split(
                    dense_objects, objects.by_score(), dense_all_fine, rank, cells_yx, votes, s.emr.delta, s.emr.cover
                )[1]
            },
        ),
        Row(
            "encompassing",
            lambda: encompassing(*e, every_pair, *f, s.emr.encompass, s.emr.fill),
            {
                NUMPY: lambda: oracles.dense_encompassing(
                    dense_entities, every_pair, dense_fine, s.emr.encompass, s.emr.fill
                )
            },
        ),
        Row(
            "most_similar",
            lambda: most_similar(features, s.emr.top_k),
            {NUMPY: lambda: oracles.dense_top_k(oracles.cosine_similarity(features), s.emr.top_k)},
        ),
        Row(
            "touching_pairs",
            lambda: touching_pairs(labels + 1),
            {NUMPY: lambda: oracles.dense_touching_pairs(labels + 1)},
        ),
        Row(
            "pair_similarity",
            lambda: pair_similarity(nearest, owner, few, len(pixels)),
            {NUMPY: lambda: oracles.dense_pair_similarity(nearest, owner, few)},
        ),
        Row(
            "without_fragments",
            lambda: without_fragments(noisy_bits, 16),
            {
                "SciPy": lambda: MaskSet.from_bool(oracles.dense_without_fragments(noisy, 16)).bits,
                "OpenCV": lambda: MaskSet.from_bool(_opencv_without_fragments(noisy, 16)).bits,
            },
        ),
        Row(
            "smallest_holders",
            lambda: smallest_holders(*m, labels, need),
            {NUMPY: lambda: oracles.dense_smallest_holders(dense, labels, need)},
        ),
        Row(
            "greedy_cover",
            lambda: greedy_cover(*m, masks.predicted_iou, np.zeros_like(masks.bits[0]), 65),
            {NUMPY: lambda: oracles.dense_cover(dense, masks.predicted_iou, nothing, 65)},
        ),
        Row(
            "felzenszwalb",
            lambda: ours(recording.image),
            {
                side: lambda segment=segment: segment(recording.image)  # type: ignore[misc]
                for side, segment in SIDES.items()
                if segment is not ours
            },
            lambda a, b: len(np.unique(a * (np.int64(b.max()) + 1) + b)) == a.max() + 1 == b.max() + 1,
        ),
    ]


def _run_lengths(dense: NDArray[np.bool_]) -> list[dict[str, Any]]:
    return [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in dense]


def _box_nms(masks: MaskSet) -> dict[str, Call]:
    """torchvision's NMS compares boxes only. It keeps other masks, and shows the cost of counting pixels."""
    try:
        import torch
        from torchvision.ops import nms
    except ImportError:
        return {}
    boxes, score = torch.from_numpy(masks.box_xyxy.astype(np.float32)), torch.from_numpy(masks.predicted_iou)
    return {"torchvision, boxes": lambda: nms(boxes, score, 0.7).numpy()}


def _opencv_without_fragments(masks: NDArray[np.bool_], min_area: int) -> NDArray[np.bool_]:
    out = np.empty_like(masks)
    for mask, kept in zip(masks, out, strict=True):
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        large = stats[:, cv2.CC_STAT_AREA] >= min_area
        large[0] = False
        kept[:] = large[parts]
    return out
