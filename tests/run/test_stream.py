"""Streams: order, drops, several sources, errors and ends. A stand-in segments, and the clock is the test's."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esam_rt.entity_map import EntityMap
from esam_rt.errors import DecodingCancelledError, InputError, SettingsError
from esam_rt.run import Stream, StreamResult
from esam_rt.sources import ArraySource, Frame, PhotoFolder
from tests.support.cameras import WAIT_S, Camera, Clock
from tests.support.fake_segmenter import FakeSegmenter

IMAGE = np.zeros((20, 30, 3), np.uint8)


def arrays(count: int) -> ArraySource:
    return ArraySource([IMAGE] * count)


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("esam-rt source")]


def names(results: Iterator[StreamResult]) -> list[str]:
    return [result.name for result in results]


def test_every_frame_comes_in_order_and_the_stream_ends_with_the_source() -> None:
    with Stream(FakeSegmenter(), arrays(20)) as stream:
        results = list(stream)
        assert next(stream, None) is None
    assert [result.name for result in results] == [f"{i:06}" for i in range(20)]
    assert {(result.source, result.error, result.complete, result.prompts) for result in results} == {
        ("0", None, True, 0)
    }
    assert all(result.entities is not None and len(result.entities) == 2 for result in results)
    figures = stream.statistics()["0"]
    assert (figures.received, figures.done, figures.failed, figures.dropped, figures.waiting) == (20, 20, 0, {}, 0)
    assert readers() == []


@pytest.mark.parametrize("max_in_flight", [1, 2, 5])
def test_every_blocks_the_source(max_in_flight: int) -> None:
    camera = Camera()
    for i in range(12):
        camera.put(str(i))
    camera.end()
    ahead: list[int] = []

    def look(number: int) -> None:
        if number < 12 - max_in_flight:  # the reader fills the room, and then waits
            while len(camera.taken) < number + max_in_flight:
                camera.wait_until_asked()
        ahead.append(len(camera.taken) - number)

    with Stream(FakeSegmenter(look), camera, max_in_flight=max_in_flight) as stream:
        assert names(stream) == [str(i) for i in range(12)]
    assert max(ahead) == max_in_flight


def test_latest_takes_the_newest_frame_and_counts_the_others() -> None:
    camera = Camera()
    with Stream(FakeSegmenter(), camera, policy="latest") as stream:
        camera.give("a", "b", "c")
        assert next(stream).name == "c"
        camera.give("d")
        assert next(stream).name == "d"
        camera.give("e", "f")
        assert stream.statistics()["0"].waiting == 1
    figures = stream.statistics()["0"]
    assert (figures.received, figures.done, figures.dropped) == (6, 2, {"newer": 3, "closed": 1})
    assert camera.closed


def test_age_and_counts_at_overload_by_the_clock() -> None:
    """A camera gives 30 frames/s, and a frame takes 0.3 s."""
    clock, camera, period_s, service_s = Clock(), Camera(), 1 / 30, 0.3
    given = 0

    def give_meanwhile(number: int) -> None:
        nonlocal given
        end_s = clock.now_s + service_s
        while (due_s := 100.0 + given * period_s) < end_s:
            clock.now_s = max(clock.now_s, due_s)
            camera.give(str(given))
            given += 1
        clock.now_s = end_s

    with Stream(FakeSegmenter(give_meanwhile), camera, policy="latest", clock=clock) as stream:
        camera.give("first")
        ages = [next(stream).age_s for _ in range(40)]
        figures = stream.statistics()["0"]
    assert np.percentile(ages, 95) <= service_s + period_s + 1e-6
    assert figures.age_p95_s == pytest.approx(np.percentile(ages, 95))
    assert figures.latency_p50_s == pytest.approx(service_s)
    assert figures.received == given + 1
    assert sum(figures.dropped.values()) == figures.received - figures.done - figures.waiting


def test_several_sources_take_turns() -> None:
    sources = {name: ArraySource([IMAGE] * count) for name, count in (("a", 9), ("b", 9), ("c", 2))}
    with Stream(FakeSegmenter(), sources, max_in_flight=10) as stream:
        with stream._changed:  # all frames wait
            assert stream._changed.wait_for(lambda: all(feed.has_ended for feed in stream._feeds.values()), WAIT_S)
        order = [result.source for result in stream]
    assert order == [*"abcabc", *"ab" * 7]


def test_a_slow_source_delays_none_and_gets_its_turn_at_once() -> None:
    slow, quick = Camera(), Camera()
    with Stream(FakeSegmenter(), {"slow": slow, "quick": quick}, policy="latest") as stream:
        quick.give("q1")
        assert next(stream).name == "q1"
        quick.give("q2")
        assert next(stream).name == "q2"
        quick.give("q3")
        slow.give("s1")
        assert names(iter([next(stream), next(stream)])) == ["s1", "q3"]


def test_a_source_that_fails_is_reported_and_the_other_goes_on() -> None:
    broken, whole = Camera(), Camera()
    broken.put(OSError("the cable is cut"))
    with Stream(FakeSegmenter(), {"broken": broken, "whole": whole}) as stream:
        failed = next(stream)
        assert (failed.frame, failed.entities, failed.source, failed.name) == (None, None, "broken", "")
        assert str(failed.error) == "the cable is cut"
        whole.put("a")
        whole.put("b")
        whole.end()
        assert names(stream) == ["a", "b"]
    figures = stream.statistics()
    assert (figures["broken"].failed, figures["broken"].received) == (1, 1)
    assert figures["whole"].done == 2


def test_an_error_is_kept_by_latest() -> None:
    camera = Camera()
    with Stream(FakeSegmenter(), camera, policy="latest") as stream:
        camera.give("a")
        camera.put(OSError("gone"))
        results = list(stream)
    assert [result.name for result in results] == ["a", ""]


def raises(number: int) -> None:
    if number == 1:
        raise InputError("a bad frame")


def test_a_frame_that_fails_is_reported() -> None:
    with Stream(FakeSegmenter(raises), iter([IMAGE] * 2)) as stream:
        first = next(stream)
        assert first.error is None
        with pytest.raises(StopIteration):
            for _ in range(3):
                last = next(stream)
    assert isinstance(last.error, InputError)
    assert (last.entities, last.complete, last.name) == (None, False, "000001")


def test_a_frame_that_fails_is_raised() -> None:
    def fail(number: int) -> None:
        raise InputError("a bad frame")

    with Stream(FakeSegmenter(fail), arrays(3), on_error="raise") as stream, pytest.raises(InputError, match="bad"):
        next(stream)
    assert stream.statistics()["0"].failed == 1


def test_a_damaged_photo_does_not_end_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("1.png", "3.png"):
        Image.fromarray(IMAGE).save(tmp_path / name)
    (tmp_path / "2.png").write_bytes(b"no photo")
    with Stream(FakeSegmenter(), PhotoFolder(tmp_path)) as stream:
        results = list(stream)
    assert [(result.name, result.error is None) for result in results] == [
        ("1.png", True),
        ("2.png", False),
        ("3.png", True),
    ]


def test_sources_come_and_go_while_the_stream_runs() -> None:
    first, second = Camera(), Camera()
    with Stream(FakeSegmenter(), {"first": first}, policy="latest") as stream:
        first.give("a")
        assert next(stream).source == "first"
        stream.add(second, "second")
        second.give("b")
        assert next(stream).source == "second"
        first.give("c")
        stream.remove("first")
        assert first.closed
        second.give("d")
        assert next(stream).name == "d"
        again = Camera()
        with pytest.raises(SettingsError, match="has one of that name"):
            stream.add(again, "second")
        stream.remove("second")
        stream.add(again, "first")
        again.give("e")
        assert next(stream).name == "e"
        assert stream.statistics()["second"].done == 2
        assert stream.statistics()["first"].done == 1
        with pytest.raises(SettingsError, match="unknown"):
            stream.remove("third")
        again.end()
        assert next(stream, None) is None


def test_what_waits_at_the_removal_is_counted() -> None:
    camera = Camera()
    with Stream(FakeSegmenter(), camera, policy="latest") as stream:
        camera.give("a", "b")
        stream.remove("0")
        assert next(stream, None) is None
        assert stream.statistics()["0"].dropped == {"newer": 1, "removed": 1}


def test_stop_from_another_thread_ends_a_wait() -> None:
    with Stream(FakeSegmenter(), Camera()) as stream:
        threading.Timer(0, stream.stop).start()
        assert next(stream, None) is None
        with pytest.raises(SettingsError, match="was stopped"):
            stream.add(arrays(1))


def test_stop_ends_the_frame_in_work() -> None:
    """The segmenter gets the stream's token. The frame counts as dropped."""

    class Slow(FakeSegmenter):
        def __call__(self, image: Any, cancel: Any = None) -> EntityMap:
            stream.stop()
            cancel.check()
            raise AssertionError("not reached")

    with Stream(Slow(), arrays(5)) as stream:
        assert list(stream) == []
    figures = stream.statistics()["0"]
    assert figures.dropped["closed"] == figures.received


def test_a_cancelled_frame_is_an_error_if_nobody_stopped_the_stream() -> None:
    def cancelled(number: int) -> None:
        raise DecodingCancelledError("the segmenter was closed")

    with Stream(FakeSegmenter(cancelled), arrays(1)) as stream:
        assert isinstance(next(stream).error, DecodingCancelledError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream(number: signal.Signals) -> None:
    """Ctrl-C leaves the block by KeyboardInterrupt. A handler of SIGTERM calls `stop`."""
    before = signal.signal(signal.SIGTERM, lambda *_: stream.stop())
    camera = Camera()
    got: list[str] = []
    try:
        with Stream(FakeSegmenter(), camera) as stream:
            camera.give("a")
            got.append(next(stream).name)
            threading.Thread(target=lambda: (camera.wait_until_asked(), os.kill(os.getpid(), number))).start()
            got += names(stream)
    except KeyboardInterrupt:
        got.append("interrupted")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == (["a", "interrupted"] if number == signal.SIGINT else ["a"])
    assert readers() == []
    assert stream.statistics()["0"].waiting == 0


def test_ctrl_c_in_the_segmenter_counts_the_frame() -> None:
    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Stream(FakeSegmenter(interrupt), arrays(3)) as stream:
        next(stream)
    figures = stream.statistics()["0"]
    assert figures.received == figures.dropped["closed"] > 0


def test_close_says_if_a_source_hangs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esam_rt.run.stream.JOIN_S", 0)
    release = threading.Event()

    def hanging() -> Iterator[Frame]:
        release.wait(WAIT_S)
        yield from ()

    stream = Stream(FakeSegmenter(), hanging())
    stream.close()
    assert "Source '0' does not return" in caplog.text
    release.set()
    stream._feeds["0"].reader.join(WAIT_S)  # type: ignore[union-attr]


class Moving:
    """Two rectangles that trade ranks with each frame. It tells if features were asked for."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def __call__(self, image: Any, *, features: bool = False, deadline_s: float | None = None) -> EntityMap:
        self.asked.append(features)
        score = [0.9, 0.8] if len(self.asked) % 2 else [0.8, 0.9]
        labels = np.ones((20, 30), np.uint16)
        labels[:, 10:] = 2
        entities = EntityMap.from_labels(labels, np.array(score), np.zeros(2, np.uint8))
        assert deadline_s in (None, 0.1)
        return replace(entities, features=np.ones((2, 1), np.float32) if features else None)


def test_each_source_has_identities_of_its_own() -> None:
    segmenter = Moving()
    found: dict[str, list[list[int]]] = {"a": [], "b": []}
    with Stream(segmenter, {"a": arrays(3), "b": arrays(2)}, track=True, deadline_s=0.1) as stream:
        for result in stream:
            assert result.entities is not None
            assert result.entities.track_id is not None
            wide_first = result.entities.area.argmax()
            found[result.source].append(np.roll(result.entities.track_id, -wide_first).tolist())
    assert segmenter.asked == [True] * 5
    assert [len(found["a"]), len(found["b"])] == [3, 2]
    for per_frame in found.values():
        assert len(set(map(tuple, per_frame))) == 1  # the wide one keeps its number
        assert {number for ids in per_frame for number in ids} == {1, 2}


def test_without_identities_no_features_are_asked_for() -> None:
    segmenter = Moving()
    with Stream(segmenter, arrays(1)) as stream:
        result = next(stream)
    assert segmenter.asked == [False]
    assert result.entities is not None
    assert result.entities.track_id is None


@pytest.mark.parametrize(
    "options",
    [{"policy": "newest"}, {"on_error": "ignore"}, {"max_in_flight": 0}, {"max_in_flight": 1001}, {"deadline_s": 0.1}],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        Stream(FakeSegmenter(), arrays(1), **options)


@pytest.mark.parametrize("deadline_s", [0, -0.1])
def test_a_deadline_is_refused_before_the_first_frame(deadline_s: float) -> None:
    def segment(image: Any, *, deadline_s: float | None = None) -> EntityMap:
        raise AssertionError("no frame is segmented")

    with pytest.raises(SettingsError, match=r"deadline_s: found .*above 0"):
        Stream(segment, arrays(1), deadline_s=deadline_s)


def test_a_function_is_a_segmenter_and_arrays_are_frames() -> None:
    segmenter: Callable[[Any], EntityMap] = FakeSegmenter().__call__
    with Stream(segmenter, [IMAGE, IMAGE]) as stream:
        assert names(stream) == ["000000", "000001"]


def test_memory_does_not_grow_with_the_frames() -> None:
    with Stream(FakeSegmenter(), iter([IMAGE] * 1500)) as stream:
        assert sum(1 for _ in stream) == 1500
        assert len(stream._feeds["0"].recorder._age_s) == 1000
        assert len(stream._feeds["0"].waiting) == 0
