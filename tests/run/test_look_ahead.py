"""Streams prepare the next frame beside the work on the one before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt import EntityMap, EntitySegmenter, Settings
from esam_rt.errors import DecodingCancelledError, InputError
from esam_rt.run import Stream
from esam_rt.sam.encoded_image import EncodedImage
from tests.support.cameras import WAIT_S, Clock
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.scene import SIDE, ColorScene

PALETTE = np.array([[0, 0, 0], [220, 40, 40], [40, 220, 40], [40, 40, 220]], np.uint8)
SETTINGS = Settings().with_overrides({"prompts.coarse_side": 8, "prompts.fine_side": 16})


def frame(number: int) -> NDArray[np.uint8]:
    return np.full((20, 30, 3), number, np.uint8)


class Preparing(FakeSegmenter):
    """A segmenter that notes which frames it prepared and which it segmented. Frames are told apart by their gray."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        super().__init__(before)
        self.prepared: list[int] = []
        self.segmented: list[tuple[int, bool]] = []
        self._changed = threading.Condition()

    def prepare(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8]]:
        with self._changed:
            self.prepared.append(int(image[0, 0, 0]))
            self._changed.notify_all()
        if self.prepared[-1] == 200:
            raise InputError("a bad frame")
        return (image,)

    def wait_for(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: number in self.prepared, WAIT_S)

    def __call__(self, image: Any) -> EntityMap:
        plain = image[0] if isinstance(image, tuple) else image
        self.segmented.append((int(plain[0, 0, 0]), isinstance(image, tuple)))
        return super().__call__(plain)


def test_the_next_frame_is_prepared_while_one_is_segmented() -> None:
    segmenter = Preparing(lambda number: segmenter.wait_for(number + 1) if number < 9 else None)
    with Stream(segmenter, [frame(i) for i in range(10)]) as stream:
        assert [result.name for result in stream] == [f"{i:06}" for i in range(10)]
    assert [number for number, _ in segmenter.segmented] == list(range(10))
    assert all(is_prepared for _, is_prepared in segmenter.segmented[1:])
    assert sorted(segmenter.prepared) == segmenter.prepared


def test_the_next_frame_is_that_of_the_next_source() -> None:
    order = [0, 100, 1, 101, 2, 102]
    segmenter = Preparing(lambda number: segmenter.wait_for(order[number + 1]) if number < 5 else None)
    with Stream(segmenter, max_in_flight=9) as stream:
        for name, first in (("a", 0), ("b", 100)):
            stream.add([frame(first + i) for i in range(3)], name)
        with stream._changed:  # all frames wait
            assert stream._changed.wait_for(lambda: all(feed.has_ended for feed in stream._feeds.values()), WAIT_S)
        assert [result.source for result in stream] == [*"ababab"]
    assert [number for number, _ in segmenter.segmented] == order
    assert all(is_prepared for _, is_prepared in segmenter.segmented[1:])


def test_a_prepared_frame_waits_while_another_source_has_its_turn() -> None:
    comes = threading.Event()

    def late() -> Iterator[NDArray[np.uint8]]:
        assert comes.wait(WAIT_S)
        yield frame(100)

    def work(number: int) -> None:
        if number == 0:
            segmenter.wait_for(1)
            comes.set()
            with stream._changed:
                assert stream._changed.wait_for(lambda: stream._feeds["late"].has_ended, WAIT_S)

    segmenter = Preparing(work)
    with Stream(segmenter, {"a": [frame(i) for i in range(3)], "late": late()}) as stream:
        assert [result.source for result in stream] == ["a", "late", "a", "a"]
    assert (1, True) in segmenter.segmented
    assert segmenter.prepared.count(1) == 1


def test_frames_are_prepared_after_the_source_of_a_prepared_one_was_removed() -> None:
    def work(number: int) -> None:
        if number == 0:
            segmenter.wait_for(1)
            stream.remove("a")
            stream.add([frame(i) for i in (100, 101, 102)], "b")
        elif number < 3:
            segmenter.wait_for(100 + number)

    segmenter = Preparing(work)
    with Stream(segmenter, {"a": [frame(i) for i in range(3)]}) as stream:
        assert [(result.source, result.error) for result in stream] == [("a", None), *[("b", None)] * 3]
    assert all(is_prepared for _, is_prepared in segmenter.segmented[1:])


def test_the_latency_begins_with_the_work_ahead() -> None:
    clock = Clock()

    def work(number: int) -> None:
        if number < 3:
            segmenter.wait_for(number + 1)
        clock.now_s += 1

    segmenter = Preparing(work)
    with Stream(segmenter, [frame(i) for i in range(4)], clock=clock) as stream:
        assert len(list(stream)) == 4
    assert stream.statistics()["0"].latency_p95_s > 1.9


@pytest.mark.parametrize("options", [{"policy": "latest"}, {"max_in_flight": 1}])
def test_no_frame_is_prepared_that_may_be_dropped_or_not_be_held(options: dict[str, Any]) -> None:
    segmenter = Preparing()
    with Stream(segmenter, [frame(i) for i in range(4)], **options) as stream:
        assert all(result.error is None for result in stream)
    assert segmenter.prepared == []


def test_an_error_of_the_work_ahead_is_that_of_its_frame() -> None:
    segmenter = Preparing(lambda number: segmenter.wait_for(200) if number == 0 else None)
    with Stream(segmenter, [frame(i) for i in (0, 200, 1)]) as stream:
        assert [str(result.error) for result in stream] == ["None", "a bad frame", "None"]


def test_close_waits_for_the_work_ahead_and_none_begins_afterwards() -> None:
    segmenter = Preparing(lambda number: segmenter.wait_for(number + 1))
    with Stream(segmenter, (frame(i) for i in range(9))) as stream:
        next(stream)
    count = len(segmenter.prepared)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("esam-rt stream")]
    assert len(segmenter.prepared) == count


def test_a_frame_whose_preparation_close_takes_back_is_dropped() -> None:
    begun, taken, ends = threading.Event(), threading.Event(), threading.Event()

    class Slow(Preparing):
        def prepare(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8]]:
            if image[0, 0, 0] == 1:
                begun.set()
                assert ends.wait(WAIT_S)
            return super().prepare(image)

    class Watched(Stream):
        def _segmented(self, feed: Any, given: Any, ahead: Any) -> EntityMap:
            if feed.name == "b":
                taken.set()
            return super()._segmented(feed, given, ahead)

    def work(number: int) -> None:
        assert begun.wait(WAIT_S)  # the only thread that prepares is busy with a frame that is removed
        stream.remove("a")
        stream.add([frame(100)], "b")
        with stream._changed:
            assert stream._changed.wait_for(lambda: stream._feeds["b"].has_ended, WAIT_S)

    def close() -> None:
        assert taken.wait(WAIT_S)
        stream.close()

    closer = threading.Thread(target=close)
    with Watched(Slow(work), {"a": [frame(0), frame(1)]}) as stream:
        closer.start()
        assert [result.name for result in stream] == ["000000"]
        ends.set()
        closer.join(WAIT_S)
    assert stream.statistics()["b"].dropped == {"closed": 1}


def street(number: int) -> NDArray[np.uint8]:
    """A sky, a road and a car that moves."""
    labels = np.ones((SIDE, SIDE), np.int64)
    labels[SIDE // 2 :] = 2
    labels[36:52, 4 + 3 * number : 20 + 3 * number] = 3
    return PALETTE[labels].repeat(4, 0).repeat(4, 1)


@pytest.fixture(params=["e-sam", "amg", "superpixels"])
def segmenter(request: pytest.FixtureRequest) -> Iterator[EntitySegmenter]:
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=SETTINGS, method=request.param) as segmenter:
        yield segmenter


def test_a_prepared_image_gives_the_same_map(segmenter: EntitySegmenter) -> None:
    expected, prepared = segmenter(street(1)), segmenter.prepare(street(1))
    assert isinstance(prepared, EncodedImage) == (segmenter.method != "superpixels")
    for _ in range(2):
        found = segmenter(prepared)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.score, expected.score)
        assert found.times_s.keys() == expected.times_s.keys()


def test_a_segmenter_with_other_superpixels_finds_its_own() -> None:
    sam, other = ColorScene(PALETTE).sam(), SETTINGS.with_overrides({"superpixels.min_size": 5})
    with EntitySegmenter(sam, settings=SETTINGS) as one, EntitySegmenter(sam, settings=other) as two:
        prepared = one.prepare(street(1))
        assert [span.name for span in one(prepared).spans].count("superpixels") == 1
        found = two(prepared)
        assert [span.name for span in found.spans].count("superpixels") == 2
        np.testing.assert_array_equal(found.labels, two(street(1)).labels)


def test_with_tiles_nothing_is_prepared() -> None:
    settings = SETTINGS.with_overrides({"tiles.side_px": 128})
    scene = ColorScene(PALETTE)
    with EntitySegmenter(scene.sam(), settings=settings) as segmenter:
        prepared = segmenter.prepare(street(1))
        assert scene.encoded == 0
        np.testing.assert_array_equal(segmenter(prepared).labels, segmenter(street(1)).labels)


@pytest.mark.parametrize("track", [True, "prompts"])
def test_a_stream_gives_the_maps_of_a_stream_that_does_not_look_ahead(track: Any) -> None:
    frames, scene = [street(number) for number in range(6)], ColorScene(PALETTE)
    with EntitySegmenter(scene.sam(), settings=SETTINGS) as segmenter:
        found = []
        for max_in_flight in (1, 3):
            with segmenter.stream(frames, track=track, max_in_flight=max_in_flight) as stream:
                found.append([result.entities for result in stream])
    assert scene.encoded == 12
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.track_id, other.track_id)


def test_a_closed_segmenter_prepares_nothing() -> None:
    with EntitySegmenter(ColorScene(PALETTE).sam(), settings=SETTINGS) as segmenter:
        pass
    with Stream(segmenter, [street(0)] * 3) as stream:
        assert all("used after close" in str(result.error) for result in stream)


def test_stop_ends_a_stream_that_looks_ahead() -> None:
    class Stopping(Preparing):
        def __call__(self, image: Any, cancel: Any = None) -> EntityMap:
            self.wait_for(1)
            stream.stop()
            raise DecodingCancelledError("stopped")

    with Stream(Stopping(), [frame(i) for i in range(4)]) as stream:
        assert list(stream) == []
