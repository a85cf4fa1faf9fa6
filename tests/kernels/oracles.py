"""Masks that are hard on bit-packed kernels, and what the kernels should say of them, in plain NumPy on dense masks."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from esam_rt.kernels.bits import areas_and_boxes, pack

WIDTHS = (1, 63, 64, 65, 128, 200)


def adversarial_masks(width: int, height: int = 9, seed: int = 0) -> NDArray[np.bool_]:
    """bool [N, height, width]: empty, full, single cells, nested, touching, word edges, checkers, random, identical."""
    rng = np.random.default_rng(seed)
    masks = []

    def add(*cells: Any) -> None:
        mask = np.zeros((height, width), bool)
        for rows, columns in cells:
            mask[rows, columns] = True
        masks.append(mask)

    every = slice(None)
    add()
    add((every, every))
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1), (height // 2, width // 2)):
        add((y, x))
    for margin in (1, 2, 3):
        add((slice(margin, height - margin), slice(margin, max(width - margin, margin + 1))))
    add((every, slice(0, width // 2)))
    add((every, slice(width // 2, None)))
    add((slice(0, height // 2), every))
    add((slice(height // 2, None), every))
    for edge in range(64, width + 1, 64):
        add((every, edge - 1))
        add((every, slice(edge - 1, edge + 1)))
    parity = np.add.outer(np.arange(height), np.arange(width)) % 2 == 0
    masks += [parity, ~parity, parity.copy()]
    for density in (0.02, 0.3, 0.7, 0.98):
        masks.append(rng.random((height, width)) < density)
    for _ in range(6):
        y0, x0 = rng.integers(height), rng.integers(width)
        add((slice(y0, y0 + rng.integers(1, height + 1)), slice(x0, x0 + rng.integers(1, width + 1))))
    masks += [masks[1].copy(), masks[-1].copy(), masks[0].copy()]
    return np.array(masks)


def rectangles(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.bool_]:
    """bool [count, height, width], a random rectangle each."""
    rng = np.random.default_rng(seed)
    y, x = np.arange(height)[:, None], np.arange(width)
    y0, x0 = rng.integers(0, height, count), rng.integers(0, width, count)
    y1, x1 = y0 + rng.integers(1, height, count), x0 + rng.integers(1, width, count)
    y0, x0, y1, x1 = (v[:, None, None] for v in (y0, x0, y1, x1))
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)


@st.composite
def mask_arrays(draw: st.DrawFn, max_count: int = 8) -> NDArray[np.bool_]:
    """bool [N, H, W], N from 0."""
    shape = draw(st.tuples(st.integers(0, max_count), st.integers(1, 5), st.sampled_from((1, 7, 63, 64, 65, 130))))
    return draw(hnp.arrays(bool, shape))


def packed(masks: NDArray[np.bool_]) -> tuple[NDArray[np.uint64], NDArray[np.int16], NDArray[np.int32]]:
    """bits, box, area."""
    bits = pack(masks)
    area, box = areas_and_boxes(bits)
    return bits, box, area


def dense_intersections(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.int64]:
    # Sums of less than 2**24 ones are exact in float32.
    return np.tensordot(a.astype(np.float32), b.astype(np.float32), ((1, 2), (1, 2))).astype(np.int64)


def dense_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [Na, Nb], 0 where both are empty."""
    cells = dense_intersections(a, b)
    union = a.sum((1, 2))[:, None] + b.sum((1, 2))[None] - cells
    return np.where(union > 0, cells / np.maximum(union, 1), 0.0)


def dense_nms(masks: NDArray[np.bool_], order: NDArray[np.integer], iou_max_n: NDArray[np.floating]) -> list[int]:
    iou = dense_iou(masks, masks)
    kept = []
    for m in order:
        if masks[m].any() and all(iou[m, k] <= iou_max_n[m] for k in kept):
            kept.append(int(m))
    return kept


def dense_cover(
    masks: NDArray[np.bool_], score: NDArray[np.floating], covered: NDArray[np.bool_], min_gain: int
) -> list[int]:
    covered, taken = covered.copy(), []
    while True:
        gains = (masks & ~covered).sum((1, 2))
        ranked = sorted((-int(g), -float(s), i) for i, (g, s) in enumerate(zip(gains, score, strict=True)))
        if not ranked or -ranked[0][0] < max(min_gain, 1):
            return taken
        taken.append(ranked[0][2])
        covered |= masks[taken[-1]]
