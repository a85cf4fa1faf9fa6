"""Identities over frames: against a scene whose identities are known, and in cases made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.lib.moving_shapes import idf1, moving_shapes, switches
from esam_rt.entity_map import EntityMap
from esam_rt.errors import SettingsError
from esam_rt.stages import Stage
from esam_rt.tracking import EntityTracker, Track, TrackState

NEW, TRACKED, LOST, REMOVED = TrackState


def entities(*boxes_xyxy: tuple[int, int, int, int], features: NDArray[np.float32] | None = None) -> EntityMap:
    """Rectangles in the order of their scores, on 60 x 80 pixels."""
    labels = np.zeros((60, 80), np.uint16)
    for label, (x0, y0, x1, y1) in enumerate(boxes_xyxy, 1):
        labels[y0:y1, x0:x1] = label
    score = np.linspace(0.9, 0.5, len(boxes_xyxy))
    result = EntityMap.from_labels(labels, score, np.full(len(boxes_xyxy), Stage.MMG))
    return replace(result, features=features)


def ids(tracker: EntityTracker, *boxes_xyxy: tuple[int, int, int, int]) -> list[int]:
    track_id = tracker.update(entities(*boxes_xyxy)).track_id
    assert track_id is not None
    assert track_id.dtype == np.int64
    return track_id.tolist()


LEFT, RIGHT, LOW = (0, 0, 20, 20), (50, 0, 70, 20), (0, 40, 20, 60)


def test_identities_do_not_follow_the_order_of_scores() -> None:
    tracker = EntityTracker()
    assert ids(tracker, LEFT, RIGHT) == [1, 2]
    assert ids(tracker, RIGHT, LEFT) == [2, 1]
    assert ids(tracker, RIGHT, LOW, LEFT) == [2, 3, 1]


@pytest.mark.parametrize("seed", range(4))
def test_moving_shapes_keep_their_identities(seed: int) -> None:
    scene = list(moving_shapes(120, seed))
    tracker = EntityTracker()
    found = []
    for frame in scene:
        track_id = tracker.update(frame.entities, frame.image_hwc_rgb).track_id
        assert track_id is not None
        assert len(set(track_id.tolist())) == len(track_id)
        found.append(track_id)
    truth = [frame.truth for frame in scene]
    clear, every = switches(scene, found)
    assert clear == 0
    assert every <= 4
    assert idf1(truth, found) >= 0.95
    ranks = [np.arange(len(frame.truth)) for frame in scene]
    assert idf1(truth, ranks) < 0.5  # the score tells identities from ranks


def test_states_and_ages_of_an_identity_that_misses_frames_and_goes() -> None:
    tracker = EntityTracker(max_missed=2)
    tracker.update(entities(LEFT, RIGHT))
    assert tracker.tracks == (Track(1, NEW, 0, 0, 0), Track(2, NEW, 0, 0, 1))
    tracker.update(entities(RIGHT))
    assert tracker.tracks == (Track(1, LOST, 1, 1, None), Track(2, TRACKED, 1, 0, 0))
    tracker.update(entities(RIGHT, LEFT))
    assert tracker.tracks == (Track(1, TRACKED, 2, 0, 1), Track(2, TRACKED, 2, 0, 0))
    for missed in (1, 2):
        tracker.update(entities(RIGHT))
        assert tracker.tracks[0] == Track(1, LOST, 2 + missed, missed, None)
    tracker.update(entities(RIGHT))
    assert tracker.tracks == (Track(1, REMOVED, 5, 3, None), Track(2, TRACKED, 5, 0, 0))
    tracker.update(entities(RIGHT, LEFT))
    assert tracker.tracks == (Track(2, TRACKED, 6, 0, 0), Track(3, NEW, 0, 0, 1))


def test_a_moving_entity_is_expected_where_it_goes_while_it_is_missing() -> None:
    tracker = EntityTracker()
    for step in range(4):
        assert ids(tracker, (4 * step, 0, 4 * step + 12, 12)) == [1]
    for _ in range(3):
        assert ids(tracker) == []
    assert ids(tracker, (28, 0, 40, 12)) == [1]  # it does not touch its last place


@pytest.mark.parametrize(("iou_min", "expected"), [(0.3, 1), (0.4, 2)])
def test_the_iou_decides(iou_min: float, expected: int) -> None:
    """IoU of the two boxes: 100 / 300."""
    tracker = EntityTracker(iou_min=iou_min)
    assert ids(tracker, (0, 0, 20, 10)) == [1]
    assert ids(tracker, (10, 0, 30, 10)) == [expected]


def test_features_confirm_a_lower_iou_and_refuse_others() -> None:
    one, other = np.float32([[3, 4]]), np.float32([[-4, 3]])
    near, far = (0, 0, 20, 10), (15, 0, 35, 10)  # IoU 1 / 7
    for features, box, expected in ((2 * one, far, 1), (other, near, 2), (2 * one, (50, 0, 70, 10), 2)):
        tracker = EntityTracker()
        tracker.update(entities(near, features=one))
        track_id = tracker.update(entities(box, features=features)).track_id
        assert track_id is not None
        assert track_id.tolist() == [expected]


def test_the_sum_of_overlaps_decides_not_the_first_come() -> None:
    """The first entity overlaps both earlier ones, the second only one of them."""
    tracker = EntityTracker(iou_min=0.2)
    assert ids(tracker, (0, 0, 20, 10), (20, 0, 40, 10)) == [1, 2]
    assert ids(tracker, (8, 0, 28, 10), (0, 0, 8, 10)) == [2, 1]


def test_a_scene_cut_begins_anew() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 3), np.uint8), 10, 0), 10, 1) for _ in range(2))
    tracker = EntityTracker()
    frames = [first, first // 2, second, second]  # a light that goes out is no cut
    found = []
    for frame in frames:
        track_id = tracker.update(entities(LEFT, RIGHT), frame).track_id
        assert track_id is not None
        found.append(track_id.tolist())
    assert found == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_a_cut_counts_if_its_frame_had_no_entities() -> None:
    """The segmentation of the first frame after the cut failed."""
    rng = np.random.default_rng(0)
    first, second = (np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 3), np.uint8), 10, 0), 10, 1) for _ in range(2))
    tracker = EntityTracker()
    tracker.update(entities(LEFT, RIGHT), first)
    assert tracker.watch(second)
    assert not tracker.watch(second)
    assert ids(tracker, LEFT, RIGHT) == [3, 4]


def test_the_frame_after_a_cut_tells_what_was_removed() -> None:
    rng = np.random.default_rng(0)
    tracker = EntityTracker()
    for _ in range(2):
        frame = np.repeat(np.repeat(rng.integers(0, 256, (6, 8, 3), np.uint8), 10, 0), 10, 1)
        tracker.update(entities(LEFT), frame)
    assert tracker.tracks == (Track(1, REMOVED, 1, 1, None), Track(2, NEW, 0, 0, 0))


def test_a_black_frame_is_no_cut() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    tracker = EntityTracker()
    for frame, boxes in ((image, (LEFT,)), (np.zeros_like(image), ()), (image, (LEFT,))):
        tracker.update(entities(*boxes), frame)
    assert tracker.tracks == (Track(1, TRACKED, 2, 0, 0),)


def test_another_size_begins_anew() -> None:
    tracker = EntityTracker()
    assert ids(tracker, LEFT) == [1]
    larger = EntityMap.from_labels(np.ones((90, 80), np.uint16), np.ones(1), np.zeros(1, np.uint8))
    track_id = tracker.update(larger).track_id
    assert track_id is not None
    assert track_id.tolist() == [2]


def test_large_maps_are_compared_reduced() -> None:
    labels = np.zeros((30, 6000), np.uint16)
    labels[:, 1000:2000], labels[:, 3000:3500] = 1, 2
    tracker = EntityTracker()
    for shift, expected in ((0, [1, 2]), (50, [1, 2])):
        moved = EntityMap.from_labels(np.roll(labels, shift, 1), np.array([0.9, 0.8]), np.zeros(2, np.uint8))
        track_id = tracker.update(moved).track_id
        assert track_id is not None
        assert track_id.tolist() == expected


def test_the_map_belongs_to_the_caller() -> None:
    tracker = EntityTracker()
    given = entities(LEFT, RIGHT)
    tracker.update(given)
    assert given.track_id is None
    given.labels[:] = 0
    assert ids(tracker, LEFT, RIGHT) == [1, 2]


def test_reset_and_empty_maps() -> None:
    tracker = EntityTracker()
    assert ids(tracker) == []
    assert ids(tracker, LEFT) == [1]
    tracker.reset()
    assert ids(tracker, LEFT) == [2]


@pytest.mark.parametrize(("max_missed", "iou_min"), [(-1, 0.3), (1001, 0.3), (5, 0.0), (5, 1.1), (5, float("nan"))])
def test_numbers_out_of_range(max_missed: int, iou_min: float) -> None:
    with pytest.raises(SettingsError, match="expected"):
        EntityTracker(max_missed, iou_min)
