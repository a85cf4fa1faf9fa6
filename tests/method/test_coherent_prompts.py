"""Coherent prompts: innermost points, the grid in turn, and gaps by depth and age."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.method.coherent_prompts import OLDEST, CoherentPrompts, innermost_cells
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid
from esam_rt.settings import Settings

GEOMETRY = Geometry.of((120, 160), 256)


def map_of(labels: NDArray[np.integer]) -> EntityMap:
    count = int(labels.max())
    return EntityMap.from_labels(labels, np.linspace(0.9, 0.1, count), np.zeros(count, np.uint8))


def depth_by_definition(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of each cell of a mask to the nearest cell outside, by comparing all cells."""
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    depth = np.zeros(mask.shape)
    for y, x in np.argwhere(mask):
        depth[y, x] = np.hypot(*(outside - (y, x)).T).min()
    return depth


@pytest.mark.parametrize("seed", range(4))
def test_the_innermost_cell_is_farthest_from_the_border(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((30, 40), np.uint16)
    for i in range(1, 7):
        y, x = rng.integers(0, 30), rng.integers(0, 40)
        labels[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = i
    entities = map_of(labels)
    cells = innermost_cells(entities, labels.shape)
    assert cells.shape == (len(entities), 2)
    by_area = np.argsort(-entities.area, kind="stable")
    for (x, y), label in zip(cells.astype(int), by_area + 1, strict=True):
        depth = depth_by_definition(entities.labels == label)
        assert depth[y, x] == pytest.approx(depth.max())


def test_an_entity_between_the_cells_has_no_point() -> None:
    labels = np.ones((40, 40), np.uint16)
    labels[:, 20:] = 2
    labels[3, 1] = 3
    assert len(innermost_cells(map_of(labels), (4, 4))) == 2
    assert innermost_cells(map_of(np.zeros((9, 9), np.uint16)), (4, 4)).shape == (0, 2)


def test_every_point_of_the_grid_has_its_turn_before_one_comes_again() -> None:
    settings = Settings().with_overrides({"prompts.coarse_side": 6, "coherent.grid": 5})
    labels = np.ones((120, 160), np.uint16)
    labels[:, 80:] = 2
    entities = map_of(labels)
    coherent = CoherentPrompts()
    assert not coherent.has_entities
    seen: list[tuple[float, ...]] = []
    for _ in range(8):
        coherent.follow(entities)
        points = coherent.points(GEOMETRY, settings)
        assert points.dtype == np.float32
        assert points.shape == (2 + 5, 2)
        assert sorted(points[:2, 0] > 0.5) == [False, True]
        seen += [tuple(point) for point in points[2:].tolist()]
    grid = {tuple(point) for point in point_grid(6).tolist()}
    assert len(seen) == 40
    assert set(seen[:36]) == grid
    assert seen[36:] == seen[:4]


def test_a_small_grid_is_decoded_whole() -> None:
    settings = Settings().with_overrides({"prompts.coarse_side": 2, "coherent.grid": 100})
    coherent = CoherentPrompts()
    coherent.follow(map_of(np.zeros((120, 160), np.uint16)))
    points = coherent.points(GEOMETRY, settings)
    assert {tuple(p) for p in points.tolist()} == {tuple(p) for p in point_grid(2).tolist()}


def test_deep_gaps_come_first_and_all_have_their_turn() -> None:
    cells = np.array([[5, 5], [5, 50], [50, 5], [50, 50]], np.int32)
    depth = np.array([1, 4, 2, 3], np.float32)
    coherent = CoherentPrompts()
    empty = map_of(np.zeros((8, 8), np.uint16))
    coherent.follow(empty)
    assert coherent.choose_gaps(cells, depth, 2).tolist() == [1, 3]
    assert coherent.choose_gaps(cells, depth, 2).tolist() == [1, 3]  # a frame with a deadline asks twice
    coherent.follow(empty)
    assert coherent.choose_gaps(cells, depth, 2).tolist() == [2, 0]
    coherent.follow(empty)
    assert coherent.choose_gaps(cells, depth, 2).tolist() == [1, 3]
    for _ in range(OLDEST + 1):
        coherent.follow(empty)
    assert coherent.choose_gaps(cells, depth, 9).tolist() == [1, 3, 2, 0]
    assert coherent.choose_gaps(cells[:0], depth[:0], 2).tolist() == []
