from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.bits import areas_and_boxes, pack, rasterize_union, unpack
from esam_rt.kernels.cover import greedy_cover
from esam_rt.kernels.iou import best_iou, intersections, iou_matrix
from esam_rt.kernels.nms import adaptive_nms, greedy_nms
from esam_rt.kernels.paint import paint
from esam_rt.kernels.regions import mask_means
from esam_rt.kernels.similarity import adjacent, cosine_similarity, mask_similarity, top_k

from .oracles import packed, rectangles


def everything(seed: int) -> list[NDArray[Any]]:
    """The result of each kernel on one input."""
    rng = np.random.default_rng(seed)
    masks = rectangles(300, 20, 70, seed)
    bits, box, area = packed(masks)
    score = rng.random(len(masks))
    order = np.argsort(-score)
    labels = rng.integers(0, 40, (20, 70))
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
    return [
        pack(masks),
        unpack(bits, 70),
        *areas_and_boxes(bits),
        rasterize_union(bits, order[:9]),
        intersections(bits, box, bits, box),
        iou_matrix(bits, box, area, bits, box, area),
        *best_iou(bits, box, area, bits[::2].copy(), box[::2].copy(), area[::2].copy()),
        greedy_nms(bits, box, area, order, 0.5),
        adaptive_nms(bits, box, area, order, rng.random(300)),
        mask_means(bits, box, rng.random((20, 70))),
        similarity,
        top,
        mask_similarity(top, rng.integers(-1, 9, 60), 9),
        adjacent(labels, 40),
        greedy_cover(bits, box, area, score, np.zeros_like(bits[0]), 1),
        image,
    ]


def test_threads_get_what_one_thread_gets() -> None:
    seeds = range(2)
    alone = [everything(seed) for seed in seeds]
    start = Barrier(len(seeds), timeout=30)

    def repeat(seed: int) -> list[list[NDArray[Any]]]:
        start.wait()
        return [everything(seed) for _ in range(10)]

    with ThreadPoolExecutor(len(seeds)) as pool:
        for expected, rounds in zip(alone, pool.map(repeat, seeds), strict=True):
            for results in rounds:
                for a, b in zip(expected, results, strict=True):
                    np.testing.assert_array_equal(a, b)
