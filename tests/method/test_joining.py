"""Entities of windows become entities of the photo: no seam shows, and each pixel has one entity."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.errors import InputError
from esam_rt.method import joining
from esam_rt.method.joining import EntityJoiner
from esam_rt.method.windows import Window, windows_of
from esam_rt.settings import Cleanup, Panorama, Tiles
from esam_rt.stages import Stage
from tests.support.true_windows import cells_around, entities_of, in_window, same_partition

Labels = NDArray[np.integer]


def joined(
    truth: Labels,
    windows: list[Window],
    tiles: Tiles,
    wraps: bool = False,
    see: Callable[[Labels, Window], Labels] = lambda labels, window: labels,
    seed: int = 0,
) -> EntityMap:
    """Join what a model sees of each window."""
    rng = np.random.default_rng(seed)
    joiner = EntityJoiner((truth.shape[0], truth.shape[1]), tiles, wraps)
    for window in windows:
        joiner.add(window, entities_of(see(in_window(truth, window), window), rng))
    return joiner.result()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("with_whole", [True, False])
@pytest.mark.parametrize("wraps", [True, False])
def test_no_seam_shows_where_every_window_is_right(seed: int, with_whole: bool, wraps: bool) -> None:
    rng = np.random.default_rng(seed)
    h, w = (100, 200) if wraps else rng.integers(60, 300, 2)
    truth = cells_around((h, w), int(rng.integers(2, 60)), rng, wraps)
    tiles = Tiles(side_px=int(rng.integers(40, 90)), crop_n_layers=int(rng.integers(0, 3)))
    windows = windows_of((h, w), tiles, Panorama(enabled=wraps))
    result = joined(truth, windows if with_whole or len(windows) == 1 else windows[1:], tiles, wraps, seed=seed)
    assert same_partition(result.labels, truth)


def test_the_order_of_labels_in_a_window_does_not_count() -> None:
    rng = np.random.default_rng(5)
    truth = cells_around((120, 160), 30, rng, wraps=False)
    tiles = Tiles(side_px=64)
    windows = windows_of(truth.shape, tiles, Panorama())
    first, second = (joined(truth, windows, tiles, seed=seed) for seed in (1, 2))
    assert same_partition(first.labels, second.labels)


def strip_map(h: int, w: int, *bounds: int) -> Labels:
    """Vertical strips numbered from 1 that end at `bounds` and at w."""
    return np.tile(np.searchsorted(bounds, np.arange(w), side="right") + 1, (h, 1))


def test_a_long_thing_is_one_entity_without_the_whole_photo() -> None:
    truth = np.zeros((50, 400), np.int64)
    truth[20:24] = 1
    truth[30:34, 10:60] = 2
    tiles = Tiles(side_px=80)
    result = joined(truth, windows_of((50, 400), tiles, Panorama())[1:], tiles)
    assert sorted(result.area) == [4 * 50, 4 * 400]
    assert sorted(result.box_xyxy.tolist()) == [[0, 20, 400, 24], [10, 30, 60, 34]]


def test_small_things_of_tiles_stand_out_from_a_large_one() -> None:
    """The whole photo shows one wall; the tiles show the wall and its nails."""
    truth = np.ones((200, 200), np.int64)
    for i in range(10):
        truth[10 + 18 * i : 14 + 18 * i, 10 + 18 * i : 14 + 18 * i] = 2 + i
    tiles = Tiles(side_px=100, small=0.001)
    windows = windows_of((200, 200), tiles, Panorama())
    result = joined(truth, windows, tiles, see=lambda labels, window: labels > 0 if window.width == 200 else labels)
    assert same_partition(result.labels, truth)
    without = joined(
        truth,
        windows,
        Tiles(side_px=100, small=0),
        see=lambda labels, window: labels > 0 if window.width == 200 else labels,
    )
    assert len(without) == 1


def test_large_things_are_taken_from_the_whole_photo() -> None:
    """A tile sees a house in pieces. The whole photo sees the house."""
    truth = np.ones((200, 200), np.int64)
    truth[50:150, 50:150] = 2
    tiles = Tiles(side_px=100)
    windows = windows_of((200, 200), tiles, Panorama())

    def see(labels: Labels, window: Window) -> Labels:
        return labels if window.width == 200 else strip_map(*labels.shape, 20, 40, 60, 80)

    result = joined(truth, windows, tiles, see=see)
    assert same_partition(result.labels, truth)


def test_a_tile_fills_what_the_whole_photo_left() -> None:
    truth = strip_map(100, 200, 90, 130)
    tiles = Tiles(side_px=100)

    def see(labels: Labels, window: Window) -> Labels:
        return np.where(labels == 2, 0, labels) if window.width == 200 else labels

    result = joined(truth, windows_of((100, 200), tiles, Panorama()), tiles, see=see)
    assert same_partition(result.labels, truth)


def test_two_entities_of_one_window_stay_two() -> None:
    """The second window sees both sides of a fence as one. The first one has told them apart."""
    truth = strip_map(60, 100, 50)
    tiles = Tiles()
    joiner = EntityJoiner((60, 100), tiles)
    rng = np.random.default_rng(0)
    joiner.add(Window(0, 0, 60, 100), entities_of(truth, rng))
    joiner.add(Window(0, 0, 60, 100), entities_of(truth > 0, rng))
    assert same_partition(joiner.result().labels, truth)


def test_boundaries_are_those_of_the_tile() -> None:
    """The whole photo draws a disk coarsely, and the tiles draw it well."""
    y, x = np.mgrid[:128, :128]
    truth = ((y - 60) ** 2 + (x - 66) ** 2 < 40**2) + 1
    tiles = Tiles(side_px=80)

    def see(labels: Labels, window: Window) -> Labels:
        return labels[::8, ::8].repeat(8, 0).repeat(8, 1) if window.width == 128 else labels

    result = joined(truth, windows_of((128, 128), tiles, Panorama()), tiles, see=see)
    assert same_partition(result.labels, truth)


def test_what_a_window_cuts_does_not_hide_what_another_shows_whole() -> None:
    """A tile begins inside a thing and takes its rest for the background. The neighbor shows it whole."""
    truth = np.ones((60, 140), np.int64)
    truth[20:40, 40:75] = 2
    tiles = Tiles(side_px=80, overlap=0.25)
    windows = [Window(0, 0, 60, 80), Window(0, 60, 60, 80)]
    for order in (windows, windows[::-1]):
        result = joined(truth, order, tiles, see=lambda labels, window: np.where(window.x0, 1, labels))
        assert same_partition(result.labels, truth)


def test_what_one_tile_shows_cut_and_no_other_shows_is_left_out() -> None:
    """It would end in a straight line."""
    truth = np.zeros((60, 140), np.int64)
    truth[10:30, 10:40] = 1
    truth[20:40, 50:110] = 2
    windows = [Window(0, 0, 60, 140), Window(0, 0, 60, 80), Window(0, 60, 60, 80)]
    result = joined(
        truth,
        windows,
        Tiles(),
        see=lambda labels, window: labels if (window.x0, window.width) == (0, 80) else np.where(labels == 1, 1, 0),
    )
    assert same_partition(result.labels, np.where(truth == 1, 1, 0))


def test_scores_are_means_by_area_and_the_largest_member_gives_the_stage() -> None:
    joiner = EntityJoiner((10, 40), Tiles())
    ones = np.ones((10, 20), np.uint16)
    joiner.add(Window(0, 0, 10, 20), EntityMap.from_labels(ones, np.array([0.9]), np.array([Stage.EMR])))
    wide = np.ones((10, 30), np.uint16)
    joiner.add(Window(0, 10, 10, 30), EntityMap.from_labels(wide, np.array([0.5]), np.array([Stage.USR])))
    result = joiner.result()
    assert result.score == pytest.approx([(200 * 0.9 + 300 * 0.5) / 500])
    assert (result.stage.tolist(), result.area.tolist()) == ([Stage.USR], [400])


def test_a_wrapped_entity_has_one_label() -> None:
    truth = np.ones((64, 128), np.int64)
    truth[20:40, :10] = truth[20:40, 120:] = 2
    truth[50:60, 30:40] = 3
    windows = windows_of((64, 128), Tiles(), Panorama(enabled=True))
    assert same_partition(joined(truth, windows, Tiles(), wraps=True).labels, truth)
    assert len(joined(truth, [Window(0, 0, 64, 128)], Tiles())) == 4, "apart without the wrap"


def test_a_band_around_a_panorama_is_one_entity() -> None:
    truth = np.repeat([1, 2, 3], [20, 24, 20])[:, None].repeat(128, axis=1)
    tiles = Tiles(side_px=48)
    windows = windows_of((64, 128), tiles, Panorama(enabled=True))
    for some in (windows, windows[1:]):
        assert same_partition(joined(truth, some, tiles, wraps=True).labels, truth)


def test_random_windows_give_a_map_without_gaps_or_empty_labels() -> None:
    """Windows that contradict each other, as of a poor model."""
    rng = np.random.default_rng(3)
    tiles = Tiles(side_px=50, small=0.01)
    windows = windows_of((120, 170), tiles, Panorama())
    joiner = EntityJoiner((120, 170), tiles)
    seen = np.zeros((120, 170), bool)
    for window in windows:
        labels = cells_around((window.height, window.width), int(rng.integers(1, 20)), rng, wraps=False)
        labels[rng.random(labels.shape) < 0.2] = 0
        joiner.add(window, entities_of(labels, rng))
        seen[window.y0 : window.y0 + window.height, window.x0 : window.x0 + window.width] |= labels > 0
    result = joiner.result()
    assert set(np.unique(result.labels)) - {0} == set(range(1, len(result) + 1))
    assert (result.score > 0).all() and (result.score <= 1).all()
    assert not result.labels[~seen].any()


def test_specks_that_windows_leave_are_removed() -> None:
    """The tiles see the line between two walls elsewhere, and a gap at their own side."""
    truth = strip_map(512, 1024, 500)
    windows = windows_of((512, 1024), Tiles(side_px=512), Panorama())
    joiner, rng = EntityJoiner((512, 1024), Tiles()), np.random.default_rng(0)
    for window in windows:
        labels = in_window(truth, window).copy()
        if window.width == 512:
            labels[:8, :8] = 3 - labels[:8, 20]
            labels[100:104, :4] = 0
        joiner.add(window, EntityMap.from_labels(labels, rng.uniform(0.5, 1, 2), np.full(2, Stage.EMR)))
    assert joiner.result(Cleanup()).pieces.tolist() == [1, 1]


def test_more_entities_than_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MOST_LABELS", 10)
    truth = strip_map(20, 55, *range(5, 55, 5))
    with pytest.raises(InputError, match=r"more than 10 entities.* Raise tiles\.side_px"):
        joined(truth, [Window(0, 0, 20, 55)], Tiles())
    assert len(joined(truth[:, :50], [Window(0, 0, 20, 50)], Tiles())) == 10
