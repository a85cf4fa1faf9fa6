"""Pieces of label maps, against SciPy's connected components."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from esam_rt.kernels.pieces import Pieces, count_pieces, find_pieces, join_pieces
from tests.kernels.oracles import dense_join_pieces, dense_pieces


def random_map(seed: int) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 14, 2)
    return rng.integers(0, rng.integers(1, 5), (h, w)).astype(np.uint16)


def piece_map(pieces: Pieces, width: int) -> NDArray[np.int32]:
    """int32 [H, W], the piece of each pixel."""
    first = pieces.row_first
    rows = [
        np.repeat(pieces.piece[a:b], np.diff(np.append(pieces.start[a:b], width))) for a, b in itertools.pairwise(first)
    ]
    return np.array(rows)


@given(st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_pieces_are_those_of_scipy(seed: int) -> None:
    labels = random_map(seed)
    found = find_pieces(labels)
    expected = dense_pieces(labels)
    np.testing.assert_array_equal(piece_map(found, labels.shape[1]), expected)
    np.testing.assert_array_equal(found.area, np.bincount(expected.ravel()))
    np.testing.assert_array_equal(found.label[expected], labels)
    boxes = ndimage.find_objects(expected + 1)
    assert found.side.tolist() == [max(s.stop - s.start for s in box) for box in boxes]
    counts = [ndimage.label(labels == k, np.ones((3, 3)))[1] for k in range(1, 5)]
    assert count_pieces(labels, 4).tolist() == counts


@given(st.integers(0, 10_000), st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_small_pieces_join_the_neighbor_with_the_longest_border(seed: int, size: int) -> None:
    labels = random_map(seed)
    is_small = find_pieces(labels).area < size
    expected = dense_join_pieces(labels, is_small)
    join_pieces(labels, find_pieces(labels), is_small)
    np.testing.assert_array_equal(labels, expected)


def test_a_piece_amid_small_pieces_waits_for_them() -> None:
    labels = np.zeros((9, 9), np.uint16)
    labels[2:7, 2:7] = 1
    labels[3:6, 3:6] = 2
    labels[4, 4] = 3
    pieces = find_pieces(labels)
    join_pieces(labels, pieces, pieces.area < 20)
    assert (labels == 0).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1)])
def test_tiny_maps(shape: tuple[int, int]) -> None:
    labels = np.zeros(shape, np.uint16)
    pieces = find_pieces(labels)
    assert len(pieces.area) == min(1, labels.size)
    join_pieces(labels, pieces, np.ones(len(pieces.area), bool))
    assert (labels == 0).all()
