"""Polygons: filled by rules written apart, they are the mask again."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes, label

from esam_rt import EntityMap
from esam_rt.polygons import Polygon, joined_ring, mask_polygons


def filled(rings_xy: list[NDArray[np.float32]], height: int, width: int) -> NDArray[np.bool_]:
    """Even-odd rule at the centers of pixels: a ray to the right crosses the rings an odd number of times."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    for ring in rings_xy:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                crosses = (min(y0, y1) <= y) & (y < max(y0, y1)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
                inside ^= crosses
    return inside


def decoded(rings_xy: list[NDArray[np.float32]], height: int, width: int) -> NDArray[np.bool_]:
    parts = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings_xy], height, width)
    with warnings.catch_warnings(action="ignore"):  # of pycocotools with NumPy 2
        return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def random_masks() -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 24, 2)) < rng.random() for _ in range(150)]
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    ring[4, 4] = True  # an island in a hole
    checkers = np.indices((8, 8)).sum(0) % 2 == 0
    return [*masks, ring, checkers, ~checkers, np.ones((1, 1), bool), np.eye(5, dtype=bool), np.zeros((3, 4), bool)]


@pytest.mark.parametrize("mask", random_masks())
def test_without_a_tolerance_polygons_are_the_mask(mask: NDArray[np.bool_]) -> None:
    polygons = mask_polygons(mask)
    assert len(polygons) == label(mask, np.ones((3, 3)))[1]
    rings = [ring for polygon in polygons for ring in polygon.rings_xy]
    assert np.array_equal(filled(rings, *mask.shape), mask)
    if rings:
        assert np.array_equal(filled([joined_ring(rings)], *mask.shape), mask)
        assert np.array_equal(decoded([joined_ring(polygon.rings_xy) for polygon in polygons], *mask.shape), mask)
        outer = [polygon.exterior_xy for polygon in mask_polygons(mask, holes=False)]
        assert np.array_equal(decoded(outer, *mask.shape), binary_fill_holes(mask))


def test_rings_have_no_needless_points() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:15, 5:25] = True
    (polygon,) = mask_polygons(mask)
    assert sorted(map(tuple, polygon.exterior_xy.tolist())) == [(5, 4), (5, 15), (25, 4), (25, 15)]
    assert polygon.holes_xy == ()


def test_a_tolerance_saves_points_and_keeps_the_shape() -> None:
    y, x = np.mgrid[:200, :200]
    disc = np.hypot(y - 99, x - 99) < 80
    exact, simple = mask_polygons(disc)[0].exterior_xy, mask_polygons(disc, 1.0)[0].exterior_xy
    assert len(simple) < len(exact) / 4
    found = filled([simple], 200, 200)
    assert (found & disc).sum() / (found | disc).sum() > 0.98
    speck = mask_polygons(np.ones((1, 1), bool), 5.0)[0].exterior_xy
    assert len(speck) == 4  # a tolerance larger than the piece leaves it as it is


def test_polygons_of_entities_lie_in_the_image() -> None:
    labels = np.zeros((40, 50), int)
    labels[3:9, 5:20] = 1
    labels[5:7, 8:12] = 0
    labels[30:35, 40:50] = 1
    labels[12:20, 12:20] = 2
    entities = EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.zeros(2, int))
    first, second = entities.polygons()
    assert [len(piece.holes_xy) for piece in sorted(first, key=lambda p: p.exterior_xy[0, 1])] == [1, 0]
    for number, pieces in enumerate((first, second)):
        rings = [ring for piece in pieces for ring in piece.rings_xy]
        assert np.array_equal(filled(rings, 40, 50), entities.mask(number))
    assert sum(len(piece.holes_xy) for piece in entities.polygons(holes=False)[0]) == 0
    empty = EntityMap.from_labels(labels * 0, np.zeros(0), np.zeros(0, int))
    assert empty.polygons() == []


def test_a_polygon_moves_with_its_holes() -> None:
    square = np.array([[0, 0], [9, 0], [9, 9], [0, 9]], np.float32)
    moved = Polygon(square, (square / 3 + 1,)).moved(2, -1)
    assert moved.exterior_xy.tolist() == np.add(square, [2, -1]).tolist()
    assert moved.holes_xy[0].tolist() == np.add(square / 3 + 1, [2, -1]).tolist()
