from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from esam_rt.kernels.nms import adaptive_nms, greedy_nms
from tests.kernels.oracles import WIDTHS, adversarial_masks, dense_iou, dense_nms, mask_arrays, packed, rectangles


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("iou_max", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_greedy_on_adversarial_masks(width: int, iou_max: float) -> None:
    masks = adversarial_masks(width)
    order = np.random.default_rng(width).permutation(len(masks))
    kept = greedy_nms(*packed(masks), order, iou_max)
    assert kept.dtype == np.int64
    assert kept.tolist() == dense_nms(masks, order, np.full(len(masks), iou_max))


@pytest.mark.parametrize("width", WIDTHS)
def test_adaptive_on_adversarial_masks(width: int) -> None:
    masks = adversarial_masks(width)
    rng = np.random.default_rng(width)
    order, iou_max_n = rng.permutation(len(masks)), rng.random(len(masks))
    assert adaptive_nms(*packed(masks), order, iou_max_n).tolist() == dense_nms(masks, order, iou_max_n)


@settings(deadline=None, max_examples=60)
@given(mask_arrays(), st.randoms(use_true_random=False), st.floats(0, 1))
def test_greedy_on_any_masks(masks: NDArray[np.bool_], random: Random, iou_max: float) -> None:
    order = np.array(random.sample(range(len(masks)), len(masks)), np.int32)
    assert greedy_nms(*packed(masks), order, iou_max).tolist() == dense_nms(masks, order, [iou_max] * len(masks))


def test_an_iou_of_exactly_the_threshold_is_kept() -> None:
    masks = np.zeros((2, 1, 70), bool)
    masks[0, :, :60], masks[1, :, :30] = True, True
    assert greedy_nms(*packed(masks), np.arange(2), 0.5).tolist() == [0, 1]
    assert greedy_nms(*packed(masks), np.arange(2), np.nextafter(0.5, 0)).tolist() == [0]


def test_the_threshold_is_the_candidates_own() -> None:
    masks = np.zeros((2, 1, 70), bool)
    masks[0, :, :60], masks[1, :, :30] = True, True
    iou_max_n = np.array([0.1, 0.9])
    assert adaptive_nms(*packed(masks), np.array([0, 1]), iou_max_n).tolist() == [0, 1]
    assert adaptive_nms(*packed(masks), np.array([1, 0]), iou_max_n).tolist() == [1]


def test_only_masks_of_the_order_are_looked_at() -> None:
    masks = np.ones((4, 3, 65), bool)
    assert greedy_nms(*packed(masks), np.array([2, 3]), 0.5).tolist() == [2]
    assert greedy_nms(*packed(masks), np.array([], np.int64), 0.5).tolist() == []
    assert greedy_nms(*packed(masks[:0]), np.array([], np.int64), 0.5).tolist() == []


def test_ten_thousand_masks() -> None:
    masks = rectangles(10_000, 16, 24)
    masks[::1000] = False
    rng = np.random.default_rng(0)
    order, iou_max_n = rng.permutation(10_000), rng.uniform(0.2, 0.6, 10_000)
    kept = adaptive_nms(*packed(masks), order, iou_max_n)

    # What makes a result the greedy one: kept as ordered, and a mask is missing just when it is empty or overlaps one
    # kept before by more than its threshold.
    place = np.empty(10_000, int)
    place[order] = np.arange(10_000)
    assert (np.diff(place[kept]) > 0).all()
    too_close = (dense_iou(masks, masks[kept]) > iou_max_n[:, None]) & (place[kept][None] < place[:, None])
    suppressed = too_close.any(1) | ~masks.any((1, 2))
    np.testing.assert_array_equal(np.flatnonzero(~suppressed), np.sort(kept))
    assert 100 < len(kept) < 9000
