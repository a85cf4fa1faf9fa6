"""The fine grid's masks, decoded as they are asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.masks import MaskSet
from esam_rt.method.prompt_set import PromptSet
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid, scattered

GEOMETRY = Geometry(orig_hw=(64, 256), resized_hw=(64, 256), grid_hw=(16, 64))


@pytest.mark.parametrize("side", [1, 2, 7, 32, 64])
def test_scattered_is_a_permutation(side: int) -> None:
    np.testing.assert_array_equal(np.sort(scattered(side)), np.arange(side**2))


@pytest.mark.parametrize("side", [8, 64])
def test_the_first_of_a_power_of_four_are_a_regular_grid(side: int) -> None:
    y, x = np.divmod(scattered(side)[: side**2 // 4], side)
    assert {(int(a), int(b)) for a, b in zip(y % 2, x % 2, strict=True)} == {(0, 0)}


def test_the_first_of_a_region_lie_spread_over_it() -> None:
    order = scattered(64)
    y, x = np.divmod(order, 64)
    inside = (y >= 5) & (y < 37) & (x >= 21) & (x < 53)  # 32 × 32 points
    y, x = y[inside][:64] - 5, x[inside][:64] - 21
    per_tile = np.bincount(y // 8 * 4 + x // 8, minlength=16)
    assert per_tile.min() >= 2
    assert per_tile.max() <= 6


WHOLE_SPHERE = np.pi / 2, -np.pi / 2


@pytest.mark.parametrize("side", [1, 2, 7, 32, 64])
def test_points_of_a_panorama_stand_for_equal_areas(side: int) -> None:
    points = point_grid(side, WHOLE_SPHERE)
    rows, counts = np.unique(points[:, 1], return_counts=True)
    assert len(rows) == side
    area = np.cos(np.pi * (rows - 0.5))  # of a row on the sphere
    assert np.abs(counts - np.maximum(1, side * area)).max() <= 0.5 + 1e-4
    for y in rows:
        x = np.sort(points[points[:, 1] == y, 0])
        np.testing.assert_allclose(np.diff(x), 1 / len(x), atol=1e-5)
        assert x[0] == pytest.approx(0.5 / len(x))
    np.testing.assert_array_equal(np.sort(scattered(side, WHOLE_SPHERE)), np.arange(len(points)))


def test_a_window_at_the_equator_has_the_full_grid_and_one_at_a_pole_few_points() -> None:
    np.testing.assert_allclose(point_grid(32, (0.01, -0.01)), point_grid(32))
    assert len(point_grid(32, (np.pi / 2, np.pi / 2 - 0.2))) < 0.15 * 32**2


def test_the_first_of_a_panorama_are_spread_by_area() -> None:
    points = point_grid(64, WHOLE_SPHERE)
    first = points[scattered(64, WHOLE_SPHERE)[:256]]
    for low, high in ((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)):
        expected = 256 * (np.cos(np.pi * low) - np.cos(np.pi * high)) / 2
        found = ((first[:, 1] >= low) & (first[:, 1] < high)).sum()
        assert abs(found - expected) < 0.15 * 256


def recorder(asked: list[NDArray[np.float32]]) -> PromptSet:
    """A gallery whose prompt in column x has one mask, of columns up to x; every fifth one fails the filters."""

    def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
        asked.append(points_norm_xy)
        columns = GEOMETRY.to_cell_yx(points_norm_xy)[:, 1]
        masks = np.arange(64) <= columns[:, None]
        found = MaskSet.from_bool(np.repeat(masks[:, None], 16, axis=1))
        return found.select(np.flatnonzero((points_norm_xy.sum(axis=1) * 1000).astype(int) % 5 > 0))

    return PromptSet.grid(8, GEOMETRY, decode)


def test_each_prompt_is_decoded_once_and_numbered_by_its_place_in_the_grid() -> None:
    asked: list[NDArray[np.float32]] = []
    gallery = recorder(asked)
    assert (len(gallery), len(gallery.masks)) == (64, 0)
    wanted = np.zeros(64, bool)
    wanted[[60, 3, 17]] = True
    gallery.ask(wanted)
    wanted[[9, 61]] = True
    gallery.ask(wanted)
    gallery.ask(wanted)
    points = point_grid(8)
    np.testing.assert_array_equal(asked[0], points[[3, 17, 60]])
    np.testing.assert_array_equal(asked[1], points[[9, 61]])
    assert len(asked) == 2
    gallery.ask_all()
    assert sum(map(len, asked)) == 64
    everything = recorder([])
    everything.ask_all()
    assert set(gallery.masks.prompt_index) < set(range(64))
    for a, b in zip(vars(gallery.masks).values(), vars(everything.masks).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    columns = gallery.cells_yx[gallery.masks.prompt_index, 1]
    np.testing.assert_array_equal(gallery.masks.area, 16 * (columns + 1))


def test_nothing_is_decoded_where_nothing_is_wanted() -> None:
    asked: list[NDArray[np.float32]] = []
    gallery = recorder(asked)
    gallery.ask(np.zeros(64, bool))
    assert not asked
    assert replace(gallery.masks).grid_hw == (16, 64)
