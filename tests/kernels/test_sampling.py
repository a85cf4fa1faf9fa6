from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from esam_rt.kernels.sampling import points_in_overlaps
from tests.kernels.oracles import WIDTHS, adversarial_masks, dense_points_in_overlaps, mask_arrays, packed


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("most", [1, 3, 1000])
def test_adversarial_masks(width: int, most: int) -> None:
    masks = adversarial_masks(width)
    rng = np.random.default_rng(width)
    points = rng.integers(0, (9, width), (60, 2)).astype(np.int32)
    order = rng.permutation(60)
    bits, box, _ = packed(masks)
    found = points_in_overlaps(bits, box, points, order, most)
    np.testing.assert_array_equal(found, dense_points_in_overlaps(masks, points, order, most))


@settings(deadline=None, max_examples=60)
@given(mask_arrays(), st.randoms(use_true_random=False), st.integers(1, 9))
def test_any_masks(masks: NDArray[np.bool_], random: Random, most: int) -> None:
    h, w = masks.shape[1:]
    points = np.array([(random.randrange(h), random.randrange(w)) for _ in range(30)], np.int32)
    order = np.array(random.sample(range(30), 30))
    bits, box, _ = packed(masks)
    found = points_in_overlaps(bits, box, points, order, most)
    np.testing.assert_array_equal(found, dense_points_in_overlaps(masks, points, order, most))


def test_no_masks_and_no_points() -> None:
    bits, box, _ = packed(np.ones((3, 4, 70), bool))
    nothing = np.zeros((0, 2), np.int32)
    assert points_in_overlaps(bits, box, nothing, np.zeros(0, np.int64), 5).shape == (0,)
    assert not points_in_overlaps(bits[:0], box[:0], np.zeros((2, 2), np.int32), np.arange(2), 5).any()
