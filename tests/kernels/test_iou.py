import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from esam_rt.kernels.iou import best_iou, block_counts, overlap, overlap_bound
from tests.kernels.oracles import (
    WIDTHS,
    adversarial_masks,
    dense_block_counts,
    dense_intersections,
    dense_iou,
    mask_arrays,
    packed,
    rectangles,
)


def check(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    bits_a, box_a, area_a = packed(a)
    bits_b, box_b, area_b = packed(b)
    expected = dense_iou(a, b)
    best, index = best_iou(bits_a, box_a, area_a, bits_b, box_b, area_b)
    assert (best.dtype, index.dtype) == (np.float32, np.int32)
    highest = expected.max(1, initial=0)
    np.testing.assert_array_equal(best, highest.astype(np.float32))
    first = expected.argmax(1) if len(b) else np.zeros(len(a), int)
    np.testing.assert_array_equal(index, np.where(highest > 0, first, -1))

    among = np.arange(1, len(b), 2)
    some, some_index = best_iou(bits_a, box_a, area_a, bits_b, box_b, area_b, among)
    chosen = best_iou(bits_a, box_a, area_a, bits_b[among], box_b[among], area_b[among])
    np.testing.assert_array_equal(some, chosen[0])
    np.testing.assert_array_equal(some_index, np.append(among, -1)[chosen[1]])


@pytest.mark.parametrize("width", WIDTHS)
def test_adversarial_masks(width: int) -> None:
    a = adversarial_masks(width)
    check(a, a)
    check(a, adversarial_masks(width, seed=1)[::-1])


@pytest.mark.parametrize(("count_a", "count_b"), [(0, 0), (0, 5), (5, 0)])
def test_none(count_a: int, count_b: int) -> None:
    a = adversarial_masks(65)
    check(a[:count_a], a[:count_b])


@settings(deadline=None, max_examples=60)
@given(mask_arrays())
def test_any_masks(masks: NDArray[np.bool_]) -> None:
    check(masks, masks[::2])


@pytest.mark.parametrize("width", WIDTHS)
def test_overlap_counts_the_cells_of_both(width: int) -> None:
    a, b = adversarial_masks(width), adversarial_masks(width, seed=1)
    (bits_a, box_a, _), (bits_b, box_b, _) = packed(a), packed(b)
    cells = [[overlap(bits_a, box_a, i, bits_b, box_b, j) for j in range(len(b))] for i in range(len(a))]
    np.testing.assert_array_equal(cells, dense_intersections(a, b))


def test_masks_that_only_touch_share_nothing() -> None:
    left, right = np.zeros((2, 4, 128), bool)
    left[:, :64], right[:, 64:] = True, True
    check(np.stack([left, right]), np.stack([right, left]))
    bits, box, area = packed(np.stack([left, right]))
    best, index = best_iou(bits[:1], box[:1], area[:1], bits[1:], box[1:], area[1:])
    assert (best[0], index[0]) == (0, -1)


def test_the_lowest_index_of_equals_is_the_best() -> None:
    masks = np.ones((3, 5, 65), bool)
    bits, box, area = packed(masks)
    np.testing.assert_array_equal(best_iou(bits, box, area, bits, box, area)[1], 0)


def test_ten_thousand_masks() -> None:
    masks = rectangles(10_000, 16, 70)
    masks[:100] = False
    check(masks, masks[::400])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [1, 32, 33, 100])
def test_block_counts_and_what_they_bound(width: int, height: int) -> None:
    noise = np.random.default_rng(1).random((20, height, width)) < 0.4
    masks = np.concatenate([adversarial_masks(width, height), noise])
    bits, box, _ = packed(masks)
    index = np.random.default_rng(0).permutation(len(masks))[:30]
    counts = block_counts(bits, box, index)
    assert counts.dtype == np.uint16
    np.testing.assert_array_equal(counts, dense_block_counts(masks[index]))
    shared = dense_intersections(masks[index], masks[index])
    for i in range(30):
        assert overlap_bound(counts, i, i) == shared[i, i]
        for j in range(30):
            assert shared[i, j] <= overlap_bound(counts, i, j) <= min(shared[i, i], shared[j, j])
    assert block_counts(bits, box, index[:0]).shape == (0, counts.shape[1])
