"""The pipeline on the frames of a camera, each of which chooses the prompts of the next one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt import EntityMap, EntitySegmenter, Settings
from esam_rt.errors import SettingsError
from esam_rt.method.coherent_prompts import CoherentPrompts
from esam_rt.run import Stream
from esam_rt.stages import Stage
from tests.support.scene import SIDE, ColorScene

PALETTE = np.array([[0, 0, 0], [220, 40, 40], [40, 220, 40], [40, 40, 220], [220, 220, 40]], np.uint8)
SETTINGS = Settings().with_overrides({"prompts.coarse_side": 16, "prompts.fine_side": 32, "render.refine": False})


def street(car_x: int, small: bool = False) -> NDArray[np.uint8]:
    """A sky, a road, a car and a small thing, 4 pixels a cell."""
    labels = np.ones((SIDE, SIDE), np.int64)
    labels[SIDE // 2 :] = 2
    labels[36:52, car_x : car_x + 16] = 3
    if small:
        labels[12:16, 20:24] = 4  # 16 cells, under one point of 16 × 16
    return PALETTE[labels].repeat(4, 0).repeat(4, 1)


def test_a_moving_object_costs_few_prompts_and_the_map_is_that_of_the_whole_grid() -> None:
    coherent = CoherentPrompts()
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=SETTINGS) as segment:
        for number in range(6):
            photo = street(4 + 3 * number)
            found, whole = segment(photo, coherent=coherent), segment(photo)
            np.testing.assert_array_equal(found.labels, whole.labels)
            assert found.completed_stages == (Stage.MMG, Stage.EMR, Stage.USR)
            if number == 0:
                assert found.prompts_decoded == whole.prompts_decoded >= 256
            else:  # three entities, eight points of the grid, and votes
                assert found.prompts_decoded <= 40


def test_a_new_small_thing_is_found_before_the_grid_has_had_its_turn() -> None:
    coherent = CoherentPrompts()
    settings = SETTINGS.with_overrides({"emr.enabled": False, "usr.enabled": False})  # these find it at once
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=settings) as segment:
        assert len(segment(street(30), coherent=coherent)) == 3
        counts = [len(segment(street(30, small=True), coherent=coherent)) for _ in range(256 // 8 + 3)]
    assert counts[0] == 3
    first = counts.index(4)
    assert set(counts[first:]) == {4}  # once found, it stays


def test_a_gap_is_filled_a_few_prompts_at_a_time() -> None:
    settings = SETTINGS.with_overrides({"coherent.gaps": 0, "coherent.grid": 1, "prompts.coarse_side": 8})
    coherent = CoherentPrompts()
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=settings) as segment:
        segment(street(30), coherent=coherent)
        coherent.follow(EntityMap.from_labels(np.zeros((256, 256), np.uint16), np.zeros(0), np.zeros(0, np.uint8)))
        assert len(segment(street(30), coherent=coherent)) == 1  # what is under the one point
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=settings.with_overrides({"coherent.gaps": 9})) as segment:
        coherent.follow(EntityMap.from_labels(np.zeros((256, 256), np.uint16), np.zeros(0), np.zeros(0, np.uint8)))
        assert len(segment(street(30), coherent=coherent)) == 3


def test_a_deadline_without_end_changes_nothing() -> None:
    photos = [street(4 + 3 * number) for number in range(4)]
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=SETTINGS) as segment:
        one, other = CoherentPrompts(), CoherentPrompts()
        for photo in photos:
            free = segment(photo, coherent=one)
            limited = segment(photo, coherent=other, deadline_s=1e6)
            assert limited.complete
            np.testing.assert_array_equal(free.labels, limited.labels)


def test_a_frame_without_time_is_left_out() -> None:
    coherent = CoherentPrompts()
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=SETTINGS) as segment:
        segment(street(4), coherent=coherent)
        assert segment(street(7), coherent=coherent, deadline_s=1e-9).prompts_decoded == 0
        assert len(segment(street(10), coherent=coherent)) == 3


@pytest.mark.parametrize(
    ("method", "changes"),
    [("amg", {}), ("superpixels", {}), ("e-sam", {"tiles.side_px": 64}), ("e-sam", {"panorama.enabled": True})],
)
def test_methods_and_settings_without_coherent_prompts(method: str, changes: dict[str, object]) -> None:
    settings = SETTINGS.with_overrides(changes)
    with (
        EntitySegmenter(ColorScene(PALETTE).sam(), settings=settings, method=method) as segment,
        pytest.raises(SettingsError, match='track="prompts"'),
    ):
        segment(np.zeros((64, 128, 3), np.uint8), coherent=CoherentPrompts())


def test_a_stream_decodes_the_whole_grid_after_a_scene_cut() -> None:
    def other(number: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(street(4 + number)[::-1, ::-1])

    frames: list[Any] = [street(4), street(5), other(0), other(1)]
    with (
        EntitySegmenter(ColorScene(PALETTE).sam(), settings=SETTINGS) as segment,
        segment.stream(frames, track="prompts") as stream,
    ):
        results = list(stream)
    prompts = [result.prompts for result in results]
    assert min(prompts[0], prompts[2]) >= 256 > 40 >= max(prompts[1], prompts[3])
    ids = [result.entities.track_id.tolist() for result in results if result.entities is not None]  # type: ignore[union-attr]
    assert [sorted(one) for one in ids] == [[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 6]]


def test_each_source_of_a_stream_has_prompts_of_its_own() -> None:
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=SETTINGS) as segment:
        sources = {"a": [street(4)] * 2, "b": [street(30)] * 2}
        with segment.stream(sources, track="prompts") as stream:
            prompts: dict[str, list[int]] = {"a": [], "b": []}
            for result in stream:
                prompts[result.source].append(result.prompts)
    for first, second in prompts.values():
        assert first >= 256 > 40 >= second


def test_a_segmenter_without_the_parameter_is_refused() -> None:
    def plain(image: Any, features: bool = False) -> EntityMap:
        raise AssertionError

    with pytest.raises(SettingsError, match='track="prompts": the segmenter has no parameter coherent'):
        Stream(plain, [], track="prompts")
    with pytest.raises(SettingsError, match="track: found 'ids'"):
        Stream(plain, [], track="ids")  # type: ignore[arg-type]
