from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from esam_rt.kernels.bits import pack, unpack
from esam_rt.kernels.containment import smallest_holders
from esam_rt.kernels.fragments import without_fragments
from esam_rt.kernels.mask_means import mask_means
from tests.kernels.oracles import (
    WIDTHS,
    adversarial_masks,
    dense_means,
    dense_smallest_holders,
    dense_without_fragments,
    mask_arrays,
    packed,
    rectangles,
)


@pytest.mark.parametrize("width", WIDTHS)
def test_mask_means(width: int) -> None:
    masks = adversarial_masks(width)
    values = np.random.default_rng(0).normal(size=masks.shape[1:]).astype(np.float32)
    bits, box, _ = packed(masks)
    mean = mask_means(bits, box, np.arange(len(masks)), values)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, dense_means(masks, values), rtol=1e-6, atol=1e-7)
    some = np.random.default_rng(1).permutation(len(masks))[::2].astype(np.int32)
    np.testing.assert_array_equal(mask_means(bits, box, some, values), mean[some])
    assert mask_means(bits, box, some[:0], values).shape == (0,)


@settings(deadline=None, max_examples=60)
@given(mask_arrays())
def test_means_of_any_masks_are_exact_for_whole_numbers(masks: NDArray[np.bool_]) -> None:
    values = np.arange(masks.shape[1] * masks.shape[2]).reshape(masks.shape[1:])
    bits, box, _ = packed(masks)
    np.testing.assert_array_equal(
        mask_means(bits, box, np.arange(len(masks)), values.astype(np.float32)),
        np.array(dense_means(masks, values), np.float32),
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_smallest_holders(width: int, share: float) -> None:
    masks = adversarial_masks(width)
    rng = np.random.default_rng(width)
    columns = np.sort(rng.integers(-1, 6, width))
    for labels in (np.tile(columns, (9, 1)), rng.integers(-1, 30, (9, width)), np.full((9, width), -1)):
        labels = labels.astype(np.int32)
        need = share * np.bincount(labels[labels >= 0], minlength=30)
        holders = smallest_holders(*packed(masks), labels, need)
        assert holders.dtype == np.int64
        assert holders.tolist() == dense_smallest_holders(masks, labels, need)
    assert smallest_holders(*packed(masks[:0]), labels, np.zeros(30)).tolist() == [-1] * 30
    assert len(smallest_holders(*packed(masks), labels, np.zeros(0))) == 0


@settings(deadline=None, max_examples=60)
@given(mask_arrays(), st.randoms(use_true_random=False), st.sampled_from((0.5, 1.0, 2.0, 9.0)))
def test_smallest_holders_among_any_masks(masks: NDArray[np.bool_], random: Random, cells: float) -> None:
    h, w = masks.shape[1:]
    labels = np.array([[random.randrange(-1, 4) for _ in range(w)] for _ in range(h)], np.int32)
    need = np.full(4, cells)
    assert smallest_holders(*packed(masks), labels, need).tolist() == dense_smallest_holders(masks, labels, need)


def check_fragments(masks: NDArray[np.bool_], min_area: int) -> None:
    bits = pack(masks)
    before = bits.copy()
    found = without_fragments(bits, min_area)
    np.testing.assert_array_equal(unpack(found, masks.shape[2]), dense_without_fragments(masks, min_area))
    np.testing.assert_array_equal(found, pack(unpack(found, masks.shape[2])), "bits right of the width")
    np.testing.assert_array_equal(bits, before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("min_area", [0, 1, 2, 5, 30, 10_000])
def test_fragments_of_adversarial_masks(width: int, min_area: int) -> None:
    check_fragments(adversarial_masks(width), min_area)


@settings(deadline=None, max_examples=100)
@given(mask_arrays(), st.integers(1, 9))
def test_fragments_of_any_masks(masks: NDArray[np.bool_], min_area: int) -> None:
    check_fragments(masks, min_area)


@pytest.mark.parametrize("density", [0.1, 0.25, 0.4, 0.6])
@pytest.mark.parametrize("min_area", [2, 5, 40])
def test_fragments_of_noise(density: float, min_area: int) -> None:
    check_fragments(np.random.default_rng(0).random((20, 40, 130)) < density, min_area)


def test_a_spiral_is_one_part_and_corners_connect() -> None:
    y, x = np.indices((41, 70))
    ring = np.minimum(np.minimum(y, 40 - y), np.minimum(x, 69 - x))
    spiral = ring % 2 == 0
    spiral[np.arange(1, 20, 2), np.arange(1, 20, 2)] = True  # a step inwards, corner to corner
    assert spiral.sum() > 1000
    check_fragments(spiral[None], int(spiral.sum()))
    assert without_fragments(pack(spiral[None]), int(spiral.sum())).any()
    assert not without_fragments(pack(spiral[None]), int(spiral.sum()) + 1).any()


def test_fragments_of_ten_thousand_masks() -> None:
    masks = rectangles(10_000, 16, 70) & (np.random.default_rng(0).random((10_000, 16, 70)) < 0.5)
    check_fragments(masks, 6)
