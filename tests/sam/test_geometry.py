"""Point grids, the place of an image in the input, and features at points."""

from __future__ import annotations

import numpy as np
import pytest

from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid


def test_point_grid_is_centred_and_row_by_row() -> None:
    points = point_grid(4)
    assert points.shape == (16, 2)
    np.testing.assert_allclose(
        points[:5], [[0.125, 0.125], [0.375, 0.125], [0.625, 0.125], [0.875, 0.125], [0.125, 0.375]]
    )
    coarse, fine = ({tuple(p) for p in point_grid(n)} for n in (32, 64))
    assert not coarse & fine


@pytest.mark.parametrize(
    ("orig_hw", "resized_hw", "grid_hw"),
    [
        ((480, 640), (384, 512), (96, 128)),
        ((640, 480), (512, 384), (128, 96)),
        ((100, 100), (512, 512), (128, 128)),
        ((1, 5000), (1, 512), (1, 128)),
        ((333, 1000), (170, 512), (43, 128)),
        ((1, 1), (512, 512), (128, 128)),
    ],
)
def test_geometry(orig_hw: tuple[int, int], resized_hw: tuple[int, int], grid_hw: tuple[int, int]) -> None:
    g = Geometry.of(orig_hw, 512)
    assert (g.resized_hw, g.grid_hw) == (resized_hw, grid_hw)
    cells = g.to_cell_yx(np.array([[0, 0], [1, 1], [0.5, 0.5]], np.float32))
    assert cells[0].tolist() == [0, 0]
    assert (cells[1] < grid_hw).all()
    centre = np.array([[grid_hw[1] // 2, grid_hw[0] // 2]])
    assert g.to_cell_yx(g.from_cell_xy(centre))[0].tolist() == centre[0, ::-1].tolist()


def test_features_are_sampled_bilinearly() -> None:
    embedding = np.random.default_rng(0).normal(size=(1, 5, 16, 16)).astype(np.float32)
    photo = EncodedImage(embedding, Geometry.of((192, 256), 256))
    points = np.array([[0.5, 0.5], [0, 0], [1, 1], [(3 + 0.5) / 16, (2 + 0.5) / 12]], np.float32)
    got = photo.features_at(points)
    e = embedding[0]
    np.testing.assert_allclose(got[3], e[:, 2, 3], atol=1e-5)
    np.testing.assert_allclose(got[0], e[:, 5:7, 7:9].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(got[1], e[:, 0, 0], atol=1e-5)
    np.testing.assert_allclose(got[2], (e[:, 11, 15] + e[:, 12, 15]) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("orig_hw", "rows", "columns"), [((64, 64), 4, 4), ((40, 64), 3, 4), ((64, 40), 4, 4), ((64, 20), 4, 2)]
)
def test_embedding_positions_cover_the_image_in_pairs(orig_hw: tuple[int, int], rows: int, columns: int) -> None:
    positions = Geometry.of(orig_hw, 64).embedding_positions(64)
    np.testing.assert_array_equal(positions, np.arange(16).reshape(4, 4)[:rows, :columns])


def test_pixels_of_the_image_become_the_unit_square() -> None:
    points = Geometry.of((50, 200), 64).from_pixels(np.array([[[20, 10]], [[200, 50]]]))
    np.testing.assert_allclose(points, [[[0.1, 0.2]], [[1, 1]]])
    assert points.dtype == np.float32
