from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.bits import areas_and_boxes, pack, rasterize_union, unpack
from esam_rt.kernels.containment import smallest_holders
from esam_rt.kernels.dedup import leaders
from esam_rt.kernels.felzenszwalb import felzenszwalb
from esam_rt.kernels.fragments import without_fragments
from esam_rt.kernels.guided_fit import fit_colors, mean_models, weighted_colors
from esam_rt.kernels.guided_paint import paint_guided
from esam_rt.kernels.iou import best_iou
from esam_rt.kernels.label_pairs import label_pairs
from esam_rt.kernels.mask_means import mask_means
from esam_rt.kernels.merge import encompassing
from esam_rt.kernels.nms import adaptive_nms, greedy_nms
from esam_rt.kernels.pieces import find_pieces, join_pieces
from esam_rt.kernels.pooling import pooling_weights
from esam_rt.kernels.sampling import points_in_overlaps
from esam_rt.kernels.set_cover import greedy_cover
from esam_rt.kernels.similarity import pair_similarity, top_k, touching_pairs
from esam_rt.kernels.split import split_overlaps
from esam_rt.kernels.upsample import paint
from tests.kernels.oracles import cosine_similarity, packed, rectangles
from tests.support.processes import GUARD_S


def everything(seed: int) -> list[NDArray[Any]]:
    """The result of each kernel on one input."""
    rng = np.random.default_rng(seed)
    masks = rectangles(300, 20, 70, seed)
    bits, box, area = packed(masks)
    score = rng.random(len(masks))
    order = np.argsort(-score)
    labels = rng.integers(0, 40, (20, 70))
    points = rng.integers(0, (20, 70), (400, 2)).astype(np.int32)
    vote = rng.integers(-1, 300, 400).astype(np.int32)
    pairs = touching_pairs(labels)
    photo = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    similarity = cosine_similarity(rng.normal(size=(60, 8)).astype(np.float32))
    top = top_k(similarity, 5)
    image = np.empty((200, 300), np.uint16)
    crops = rng.normal(size=(9, 20, 70)).astype(np.float32)
    paint(
        image,
        crops.ravel(),
        np.arange(9) * 1400,
        np.tile([0, 0, 70, 20], (9, 1)),
        np.zeros((20, 70), np.float32),
        0.1,
        70 / 300,
    )
    guided = np.empty((60, 80), np.uint16)
    models = rng.normal(size=(9 * 1400, 4)).astype(np.float32)
    reach = rng.integers(0, 3, 9 * 1400).astype(np.uint8)
    paint_guided(
        guided,
        lambda y0, y1: photo.transpose(2, 0, 1)[:, y0:y1],
        models,
        reach,
        np.arange(9) * 1400,
        np.tile([0, 0, 70, 20], (9, 1)),
        (20, 70),
        1 / 3,
        7 / 8,
    )
    color = photo.astype(np.float32)
    weighted = weighted_colors(color, rng.random((20, 70), np.float32), (9, 30, 79, 50), (0, 0, 80, 60))
    statistics = rng.normal(size=(10, 60, 80)).astype(np.float32)
    fitted = weighted.copy()
    fit_colors(fitted, statistics, (0, 0, 80, 60))
    means = np.empty((40, 50, 4), np.float32)
    mean_models(fitted, statistics, (0, 0, 80, 60), (20, 10, 70, 50), means)
    pieces = find_pieces(guided)
    joined = guided.copy()
    join_pieces(joined, pieces, pieces.area < 20)
    return [
        guided,
        weighted,
        fitted,
        means,
        pieces.piece,
        pieces.area,
        joined,
        pack(masks),
        unpack(bits, 70),
        *areas_and_boxes(bits),
        rasterize_union(bits, order[:9]),
        *best_iou(bits, box, area, bits[::2].copy(), box[::2].copy(), area[::2].copy()),
        greedy_nms(bits, box, area, order, 0.5),
        adaptive_nms(bits, box, area, order, rng.random(300)),
        mask_means(bits, box, order, rng.random((20, 70))),
        smallest_holders(bits, box, area, labels.astype(np.int32), rng.integers(1, 40, 40)),
        without_fragments(bits & np.uint64(0x36DB6DB6DB6DB6DB), 9),
        points_in_overlaps(bits, box, points, rng.permutation(400), 9),
        leaders(bits, box, area, order, 0.7),
        *split_overlaps(bits, box, area, order, bits, box, area, np.argsort(order), points, vote, 0.05, 0.8),
        encompassing(bits, box, area, pairs, bits, box, area, 0.85, 0.7),
        felzenszwalb(photo, 100, 0.5, 9),
        similarity,
        top,
        pair_similarity(top, rng.integers(-1, 40, 60), pairs, 40),
        pairs,
        greedy_cover(bits, box, area, score, np.zeros_like(bits[0]), 1),
        image,
        pooling_weights(image, 1, 9, np.linspace(0, 4, 200), np.linspace(0, 7, 300), (5, 8)),
        *label_pairs(image, image[::-1], rng.integers(-9, 9, (10, 2))),
    ]


def test_threads_get_what_one_thread_gets() -> None:
    seeds = range(4)
    alone = [everything(seed) for seed in seeds]
    start = Barrier(len(seeds), timeout=GUARD_S)

    def repeat(seed: int) -> list[list[NDArray[Any]]]:
        start.wait()
        return [everything(seed) for _ in range(5)]

    with ThreadPoolExecutor(len(seeds)) as pool:
        for expected, rounds in zip(alone, pool.map(repeat, seeds), strict=True):
            for results in rounds:
                for a, b in zip(expected, results, strict=True):
                    np.testing.assert_array_equal(a, b)
