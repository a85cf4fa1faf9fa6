"""Pixels that labels share, against a count of every pixel in Python."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.kernels.label_pairs import label_pairs


def counted(
    before: NDArray[np.uint16], after: NDArray[np.uint16], offset_yx: NDArray[np.int32]
) -> list[tuple[tuple[int, int], int]]:
    pairs: Counter[tuple[int, int]] = Counter()
    for (y, x), a in np.ndenumerate(before):
        to = (y + offset_yx[a, 0], x + offset_yx[a, 1])
        if a and all(0 <= at < side for at, side in zip(to, after.shape, strict=True)) and after[to]:
            pairs[int(a), int(after[to])] += 1
    return sorted(pairs.items())


@pytest.mark.parametrize("blocks", [1, 5])
@pytest.mark.parametrize("seed", range(6))
def test_pairs_and_pixels(seed: int, blocks: int) -> None:
    rng = np.random.default_rng(seed)
    many = rng.choice([3, 70, 40_000])
    shape = rng.integers(1, 12, 2)
    before, after = (
        rng.integers(0, many, shape).astype(np.uint16).repeat(blocks, 0).repeat(blocks, 1) for _ in range(2)
    )
    offset = rng.integers(-4, 5, (many, 2)) * (rng.random((many, 1)) < 0.5)
    pairs, pixels = label_pairs(before, after, offset)
    assert [(tuple(pair), count) for pair, count in zip(pairs.tolist(), pixels.tolist(), strict=True)] == counted(
        before, after, offset
    )


def test_a_part_of_a_map_at_its_place() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 4, (2, 9, 11)).astype(np.uint16)
    offset = rng.integers(-3, 4, (4, 2))
    part = np.zeros_like(before)
    part[2:8, 3:7] = before[2:8, 3:7]
    expected = label_pairs(part, after, offset)
    for found, array in zip(label_pairs(before[2:8, 3:7], after, offset + np.array([2, 3])), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def test_the_highest_label_and_strided_maps() -> None:
    before = np.full((4, 6), 65_535, np.uint16)
    pairs, pixels = label_pairs(before[:, ::2], before[:, 1::2], np.zeros((65_536, 2), np.int64))
    assert (pairs.tolist(), pixels.tolist()) == ([[65_535, 65_535]], [12])


def test_empty_maps() -> None:
    nothing = np.zeros((3, 4), np.uint16)
    pairs, pixels = label_pairs(nothing, nothing, np.zeros((1, 2), np.int64))
    assert (pairs.shape, pixels.shape) == ((0, 2), (0,))
