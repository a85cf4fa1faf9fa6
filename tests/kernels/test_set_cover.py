from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from esam_rt.kernels.bits import pack
from esam_rt.kernels.set_cover import greedy_cover
from tests.kernels.oracles import WIDTHS, adversarial_masks, dense_cover, mask_arrays, packed, rectangles


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("min_gain", [0, 1, 5])
@pytest.mark.parametrize("density", [0.0, 0.5])
def test_adversarial_masks(width: int, min_gain: int, density: float) -> None:
    masks = adversarial_masks(width)
    masks = masks[masks.mean((1, 2)) < 0.4]
    rng = np.random.default_rng(width)
    covered = rng.random(masks.shape[1:]) < density
    score = rng.integers(0, 3, len(masks)).astype(np.float32)
    covered_bits = pack(covered[None])[0]
    before = covered_bits.copy()
    taken = greedy_cover(*packed(masks), score, covered_bits, min_gain)
    assert taken.dtype == np.int64
    assert taken.tolist() == dense_cover(masks, score, covered, min_gain)
    np.testing.assert_array_equal(covered_bits, before)


@settings(deadline=None, max_examples=60)
@given(mask_arrays(), st.randoms(use_true_random=False), st.integers(0, 9))
def test_any_masks(masks: NDArray[np.bool_], random: Random, min_gain: int) -> None:
    score = np.array([random.choice((0.5, 0.9)) for _ in masks], np.float32)
    covered = np.zeros(masks.shape[1:], bool)
    covered[:, ::3] = True
    taken = greedy_cover(*packed(masks), score, pack(covered[None])[0], min_gain)
    assert taken.tolist() == dense_cover(masks, score, covered, min_gain)


def test_equal_gains_go_by_score_then_by_index() -> None:
    masks = np.zeros((4, 2, 70), bool)
    masks[0, :, :10] = masks[1, :, 20:30] = masks[2, :, 40:50] = masks[3, :, 60:70] = True
    score = np.array([0.5, 0.9, 0.5, 0.9], np.float32)
    assert greedy_cover(*packed(masks), score, np.zeros((2, 2), np.uint64), 1).tolist() == [1, 3, 0, 2]


def test_ten_thousand_masks() -> None:
    masks = rectangles(10_000, 24, 70) & (np.random.default_rng(0).random((10_000, 1, 70)) < 0.2)
    score = np.random.default_rng(1).random(10_000)
    covered = np.zeros((24, 70), bool)
    taken = greedy_cover(*packed(masks), score, pack(covered[None])[0], 4)
    assert taken.tolist() == dense_cover(masks, score, covered, 4)
    assert len(taken) > 5
