import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from esam_rt.kernels.iou import best_iou, intersections, iou_matrix

from .oracles import WIDTHS, adversarial_masks, dense_intersections, dense_iou, mask_arrays, packed, rectangles


def check(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    bits_a, box_a, area_a = packed(a)
    bits_b, box_b, area_b = packed(b)
    cells = intersections(bits_a, box_a, bits_b, box_b)
    assert (cells.dtype, cells.shape) == (np.int32, (len(a), len(b)))
    np.testing.assert_array_equal(cells, dense_intersections(a, b))

    expected = dense_iou(a, b)
    iou = iou_matrix(bits_a, box_a, area_a, bits_b, box_b, area_b)
    assert iou.dtype == np.float32
    np.testing.assert_array_equal(iou, expected.astype(np.float32))

    best, index = best_iou(bits_a, box_a, area_a, bits_b, box_b, area_b)
    assert (best.dtype, index.dtype) == (np.float32, np.int32)
    highest = expected.max(1, initial=0)
    np.testing.assert_array_equal(best, highest.astype(np.float32))
    first = expected.argmax(1) if len(b) else np.zeros(len(a), int)
    np.testing.assert_array_equal(index, np.where(highest > 0, first, -1))


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
