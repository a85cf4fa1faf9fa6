import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from esam_rt.kernels.bits import areas_and_boxes, pack, rasterize_union, unpack
from tests.kernels.oracles import WIDTHS, adversarial_masks, dense_boxes, mask_arrays


@pytest.mark.parametrize("width", WIDTHS)
def test_cell_x_is_bit_x_mod_64_of_word_x_div_64_and_the_rest_is_zero(width: int) -> None:
    masks = adversarial_masks(width)
    bits = pack(masks)
    assert bits.dtype == np.uint64
    assert bits.flags.c_contiguous
    expected = np.zeros((*masks.shape[:2], -(-width // 64)), np.uint64)
    for i, y, x in np.argwhere(masks):
        expected[i, y, x // 64] |= np.uint64(1) << np.uint64(x % 64)
    np.testing.assert_array_equal(bits, expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_areas_and_boxes(width: int) -> None:
    masks = adversarial_masks(width)
    area, box = areas_and_boxes(pack(masks))
    assert (area.dtype, box.dtype) == (np.int32, np.int16)
    np.testing.assert_array_equal(area, masks.sum((1, 2)))
    np.testing.assert_array_equal(box, dense_boxes(masks))


def test_every_single_column_has_its_box() -> None:
    masks = np.eye(200, dtype=bool)[:, None]
    area, box = areas_and_boxes(pack(masks))
    assert (area == 1).all()
    np.testing.assert_array_equal(box, dense_boxes(masks))


@settings(deadline=None, max_examples=60)
@given(mask_arrays())
def test_unpack_undoes_pack(masks: NDArray[np.bool_]) -> None:
    bits = pack(masks)
    back = unpack(bits, masks.shape[2])
    assert back.dtype == np.bool_
    np.testing.assert_array_equal(back, masks)
    area, box = areas_and_boxes(bits)
    np.testing.assert_array_equal(area, masks.sum((1, 2)))
    np.testing.assert_array_equal(box, dense_boxes(masks))


def test_strided_and_read_only_arrays_are_taken() -> None:
    masks = adversarial_masks(65)
    bits = pack(masks[::2, :, ::-1])
    np.testing.assert_array_equal(unpack(bits, 65), masks[::2, :, ::-1])
    bits.flags.writeable = False
    np.testing.assert_array_equal(areas_and_boxes(bits[::2])[0], masks[::4].sum((1, 2)))


@pytest.mark.parametrize("width", WIDTHS)
def test_union_of_some_masks(width: int) -> None:
    masks = adversarial_masks(width)
    masks = masks[masks.mean((1, 2)) < 0.5]
    bits = pack(masks)
    for index in (np.array([], np.int32), np.array([2]), np.array([3, 1, 3], np.uint8), np.arange(len(masks))):
        union = rasterize_union(bits, index)
        assert union.dtype == np.uint64
        np.testing.assert_array_equal(unpack(union[None], width)[0], masks[index].any(0))
