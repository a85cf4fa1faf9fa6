import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from esam_rt.kernels.bits import pack
from esam_rt.kernels.regions import cells_inside, label_counts, mask_means

from .oracles import WIDTHS, adversarial_masks, mask_arrays, packed


def means(masks: NDArray[np.bool_], values: NDArray[np.floating]) -> list[float]:
    return [values[m].mean(dtype=np.float64) if m.any() else 0.0 for m in masks]


@pytest.mark.parametrize("width", WIDTHS)
def test_mask_means(width: int) -> None:
    masks = adversarial_masks(width)
    values = np.random.default_rng(0).normal(size=masks.shape[1:]).astype(np.float32)
    bits, box, _ = packed(masks)
    mean = mask_means(bits, box, values)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, means(masks, values), rtol=1e-6, atol=1e-7)
    assert mask_means(bits[:0], box[:0], values).shape == (0,)


@settings(deadline=None, max_examples=60)
@given(mask_arrays())
def test_means_of_any_masks_are_exact_for_whole_numbers(masks: NDArray[np.bool_]) -> None:
    values = np.arange(masks.shape[1] * masks.shape[2]).reshape(masks.shape[1:])
    bits, box, _ = packed(masks)
    np.testing.assert_array_equal(
        mask_means(bits, box, values.astype(np.float32)), np.array(means(masks, values), np.float32)
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_label_counts(width: int) -> None:
    masks = adversarial_masks(width)
    labels = np.random.default_rng(0).integers(-1, 9, masks.shape[1:])
    labels[labels == 8] = 2**30
    for mask, bits in zip(masks, pack(masks), strict=True):
        counts = label_counts(bits, labels, 8)
        assert counts.dtype == np.int32
        # -1 and 2**30 are no labels of 0…7
        np.testing.assert_array_equal(counts, [(labels[mask] == k).sum() for k in range(8)])


@pytest.mark.parametrize("width", WIDTHS)
def test_cells_inside(width: int) -> None:
    masks = adversarial_masks(width)
    bits = pack(masks)
    cells = np.argwhere(np.ones(masks.shape[1:], bool))
    inside = cells_inside(bits, cells)
    assert inside.dtype == np.bool_
    np.testing.assert_array_equal(inside, masks.reshape(len(masks), -1))
    np.testing.assert_array_equal(cells_inside(bits, cells[::-3]), inside[:, ::-3])
    assert cells_inside(bits, cells[:0]).shape == (len(masks), 0)
