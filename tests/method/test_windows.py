"""Windows of a photo: they cover it, overlap, and go around a panorama."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_rt.errors import InputError
from esam_rt.method.windows import Rectangle, Window, windows_of
from esam_rt.settings import Panorama, Tiles

WHOLE = Panorama()
AROUND = Panorama(enabled=True)


def spans(starts_and_sides: set[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted((start, start + side) for start, side in starts_and_sides)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(50, 900), st.floats(0, 0.5))
def test_tiles_cover_the_photo_and_overlap(h: int, w: int, side: int, overlap: float) -> None:
    whole, *tiles = windows_of((h, w), Tiles(side_px=side, overlap=overlap), WHOLE)
    assert (whole.y0, whole.x0, whole.height, whole.width, whole.latitudes) == (0, 0, h, w, None)
    assert bool(tiles) == (max(h, w) > side)
    assert len(set(tiles)) == len(tiles)
    for length, found in (
        (h, spans({(t.y0, t.height) for t in tiles})),
        (w, spans({(t.x0, t.width) for t in tiles})),
    ):
        if tiles:
            assert found[0][0] == 0 and found[-1][1] == length
            assert all(stop - start == min(length, side) for start, stop in found)
            shared = [a[1] - b[0] for a, b in itertools.pairwise(found)]
            assert all(pixels >= side * overlap - 1 for pixels in shared)


def test_layers_of_crops_come_from_coarse_to_fine() -> None:
    windows = windows_of((300, 600), Tiles(crop_n_layers=2, side_px=100, overlap=0.25), WHOLE)
    sizes = list(dict.fromkeys((w.height, w.width) for w in windows))
    assert sizes == [(300, 600), (172, 343), (93, 185), (100, 100)]
    assert [sum((w.height, w.width) == size for w in windows) for size in sizes] == [1, 4, 16, 4 * 8]


@settings(deadline=None, max_examples=30)
@given(st.integers(20, 1000), st.integers(50, 900), st.floats(0, 0.5), st.floats(0, 0.5))
def test_windows_of_a_panorama_go_around(h: int, side: int, overlap: float, beyond: float) -> None:
    w = 2 * h
    tiles = Tiles(side_px=side, overlap=overlap, crop_n_layers=1)
    whole, *rest = windows_of((h, w), tiles, Panorama(enabled=True, overlap=beyond))
    assert (whole.x0, whole.width) == (0, w + round(w * beyond))
    for size in {(window.height, window.width) for window in rest}:
        shown = np.zeros((h, w), int)
        for window in rest:
            if (window.height, window.width) == size:
                for part in window.parts(w):
                    shown[part.y0 : part.y1, part.x0 : part.x1] += 1
        assert shown.min() >= 1
        edge = shown[:, [0, -1]]
        assert overlap < 0.05 or size[1] < 20 or edge.sum() > 2 * h, "some window goes over the edge"


def test_parts_of_a_window() -> None:
    assert list(Window(1, 2, 3, 4).parts(10)) == [Rectangle(1, 2, 4, 6)]
    assert list(Window(1, 8, 3, 4).parts(10)) == [Rectangle(1, 8, 4, 10), Rectangle(1, 0, 4, 2)]


def test_latitudes_go_from_pole_to_pole() -> None:
    whole, *tiles = windows_of((100, 200), Tiles(side_px=50, overlap=0), AROUND)
    assert whole.latitudes == pytest.approx((math.pi / 2, -math.pi / 2))
    assert {t.y0: t.latitudes for t in tiles}[50] == pytest.approx((0, -math.pi / 2))


@pytest.mark.parametrize("hw", [(100, 100), (100, 203), (200, 100), (1, 1)])
def test_a_panorama_is_twice_as_wide_as_high(hw: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"is {hw[1]} x {hw[0]} pixels; expected twice as wide as high"):
        windows_of(hw, Tiles(), AROUND)
    assert len(windows_of(hw, Tiles(), WHOLE)) == 1
