import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from esam_rt.kernels.regions import mask_means

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
