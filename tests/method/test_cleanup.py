"""Specks and holes of label maps."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.method.cleanup import clean_up
from esam_rt.settings import Cleanup


def speckled() -> NDArray[np.uint16]:
    """Two entities of half a photo each, with 256 x 512 pixels."""
    labels = np.ones((256, 512), np.uint16)
    labels[:, 256:] = 2
    labels[10:14, 300:304] = 1  # a speck of the other entity
    labels[50:54, 50:54] = 0  # a hole
    labels[100:103, 400:403] = 3  # a whole small entity
    labels[200:204, 20:44] = 2  # a piece of 96 pixels
    return labels


def test_specks_join_and_holes_are_filled() -> None:
    labels = speckled()
    clean_up(labels, Cleanup(min_piece=50, fill_holes=20))
    expected = speckled()
    expected[10:14, 300:304] = 2
    expected[50:54, 50:54] = 1
    np.testing.assert_array_equal(labels, expected)


def test_the_largest_piece_of_an_entity_stays() -> None:
    labels = speckled()
    clean_up(labels, Cleanup(min_piece=1000, fill_holes=0))
    assert np.bincount(labels.ravel())[3] == 9
    assert (labels[50:54, 50:54] == 0).all()
    assert (labels[200:204, 20:44] == 1).all()


def test_a_speck_in_an_empty_region_becomes_empty() -> None:
    labels = np.zeros((512, 512), np.uint16)
    labels[:100, :100], labels[300:303, 300:303] = 1, 1
    clean_up(labels, Cleanup(min_piece=10, fill_holes=10))
    assert np.count_nonzero(labels) == 100 * 100


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_sizes_grow_with_the_photo(scale: int) -> None:
    small, large = speckled(), speckled().repeat(scale, 0).repeat(scale, 1)
    settings = Cleanup(min_piece=90, fill_holes=17)
    clean_up(small, settings)
    clean_up(large, settings)
    np.testing.assert_array_equal(large, small.repeat(scale, 0).repeat(scale, 1))
    assert (small[200:204, 20:44] == 2).all()


def test_a_long_thin_piece_stays() -> None:
    labels = np.ones((512, 512), np.uint16)
    labels[100:200, 100:200] = 2
    labels[300, 100:160], labels[400, 100:120] = 2, 2
    clean_up(labels, Cleanup(min_piece=300, fill_holes=0))
    assert (labels[300, 100:160] == 2).all()
    assert (labels[400] == 1).all()


def test_off_changes_nothing() -> None:
    labels = speckled()
    clean_up(labels, Cleanup(min_piece=0, fill_holes=0))
    np.testing.assert_array_equal(labels, speckled())


def test_sizes_are_those_of_what_the_model_saw_at_once() -> None:
    small, large = speckled(), speckled()
    clean_up(small, Cleanup(min_piece=400, fill_holes=400), shown_side_px=256)
    clean_up(large, Cleanup(min_piece=100, fill_holes=100))
    np.testing.assert_array_equal(small, large)


def test_a_piece_that_goes_on_over_the_edge_of_a_panorama_stays() -> None:
    labels = np.ones((256, 512), np.uint16)
    labels[100:110, :4] = labels[100:110, 400:] = 2  # one entity, with 40 pixels at the left edge
    labels[10:12, :2] = labels[50:52, 100:102] = 2  # specks, one of them at the edge
    flat, expected = labels.copy(), labels.copy()
    clean_up(labels, Cleanup(min_piece=100, fill_holes=0), wraps=True)
    expected[10:12, :2] = expected[50:52, 100:102] = 1
    np.testing.assert_array_equal(labels, expected)
    clean_up(flat, Cleanup(min_piece=100, fill_holes=0))
    assert (flat[100:110, :4] == 1).all()
