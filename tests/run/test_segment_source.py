"""Runs over any source into any sinks, with a segmenter that needs no networks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from esam_rt.entity_map import EntityMap
from esam_rt.errors import InputError, OutputError, SettingsError
from esam_rt.run import segment_source
from esam_rt.sinks import CocoJson, HtmlReport, LabelMaps, Overlays, RunInfo
from esam_rt.sources import ArraySource, Frame
from tests.run.test_folder_run import contents, files, lines, raise_at
from tests.support.fake_segmenter import FakeSegmenter

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


class Stream:
    """A source that knows nothing in advance."""

    length: int | None = None
    is_live = True

    def __init__(self, *names: str, error: BaseException | None = None) -> None:
        self.names, self.error = names, error
        self.taken = 0

    def __iter__(self) -> Iterator[Frame]:
        for name in self.names:
            self.taken += 1
            yield Frame(IMAGE, name, stamp_ns=self.taken)
        if self.error is not None:
            raise self.error


class Remember:
    """A sink that remembers what it is told."""

    def __init__(self, error: OutputError | None = None) -> None:
        self.events: list[Any] = []
        self.error = error

    def open(self, run: RunInfo) -> None:
        self.events.append("open")

    def write(self, frame: Frame, entities: EntityMap) -> None:
        self.events.append((frame.name, frame.stamp_ns, len(entities)))

    def close(self, summary: Mapping[str, Any]) -> None:
        self.events.append("close")
        self.summary = summary
        if self.error is not None:
            raise self.error


def test_arrays_go_through_all_sinks_and_can_be_resumed(tmp_path: Path) -> None:
    source = ArraySource(dict.fromkeys(("left", "sub/right", "up"), IMAGE))
    out, whole = tmp_path / "out", tmp_path / "whole"
    before = IMAGE.copy()

    def sinks() -> list[Any]:
        return [Overlays(), LabelMaps(), CocoJson(), HtmlReport()]

    assert segment_source(source, FakeSegmenter(), sinks(), whole).done == 3
    first = segment_source(source, FakeSegmenter(raise_at(1, KeyboardInterrupt())), sinks(), out)
    assert (first.exit_code, first.done, first.left) == (130, 1, 2)
    with pytest.raises(SettingsError, match="--resume"):
        segment_source(source, FakeSegmenter(), sinks(), out)
    second = segment_source(source, FakeSegmenter(), sinks(), out, resume=True)
    assert (second.done, second.done_before, second.exit_code) == (2, 1, 0)
    assert second.look_at == out / "report" / "index.html"
    assert files(out) == files(whole)
    assert contents(out) == contents(whole)
    np.testing.assert_array_equal(IMAGE, before)
    record = json.loads((out / "run.json").read_text())
    assert (record["sources"], record["write"]) == (
        ["ArraySource"],
        ["Overlays", "LabelMaps", "CocoJson", "HtmlReport"],
    )


def test_a_stream_of_unknown_length_goes_through_any_sink(tmp_path: Path) -> None:
    sink = Remember()
    summary = segment_source(Stream("cam/1", "cam/2"), FakeSegmenter(), [sink, LabelMaps()], tmp_path)
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (2, 0, 0, 0)
    assert sink.events == ["open", ("cam/1", 1, 2), ("cam/2", 2, 2), "close"]
    assert sink.summary["backend"] == "none"
    assert files(tmp_path / "labels") == {"cam/1.png", "cam/2.png"}


def test_a_stream_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Stream does not know its frames in advance"):
        segment_source(Stream("a"), FakeSegmenter(), [LabelMaps()], tmp_path, resume=True)
    assert segment_source(Stream("a"), FakeSegmenter(), [LabelMaps()], tmp_path).done == 1
    assert segment_source(Stream("b"), FakeSegmenter(), [LabelMaps()], tmp_path, overwrite=True).done == 1
    assert files(tmp_path / "labels") == {"b.png"}


def test_a_limit_takes_no_more_frames_than_needed(tmp_path: Path) -> None:
    stream = Stream(*"abcdefgh")
    assert segment_source(stream, FakeSegmenter(), [Remember()], tmp_path, limit=3).done == 3
    assert stream.taken == 3


def test_frames_of_a_stream_with_bad_names_fail_alone(tmp_path: Path) -> None:
    summary = segment_source(Stream("a", "../b", "a", "c"), FakeSegmenter(), [LabelMaps()], tmp_path / "out")
    assert (summary.done, summary.failed, summary.exit_code) == (2, 2, 1)
    messages = [line["message"] for line in lines(tmp_path / "out" / "errors.jsonl")]
    assert "'../b' is not a frame's name" in messages[0]
    assert "Two frames are named 'a'" in messages[1]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_stream_that_breaks_stops_the_run(tmp_path: Path) -> None:
    summary = segment_source(Stream("a", error=InputError("the cable is cut")), FakeSegmenter(), [CocoJson()], tmp_path)
    assert (summary.done, summary.exit_code, summary.error) == (1, 1, "the cable is cut")
    assert len(json.loads((tmp_path / "entities.json").read_text())["images"]) == 1


@pytest.mark.parametrize("names", [["../a"], ["/a"], [""]])
def test_known_names_are_checked_before_the_run(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(InputError, match="not a frame's name"):
        segment_source(ArraySource(dict.fromkeys(names, IMAGE)), FakeSegmenter(), [LabelMaps()], tmp_path)


def test_every_sink_is_closed_and_the_first_error_is_told(tmp_path: Path) -> None:
    first, second = Remember(OutputError("disk is full")), Remember(OutputError("another"))
    summary = segment_source(ArraySource([IMAGE]), FakeSegmenter(), [first, second], tmp_path)
    assert (summary.error, summary.exit_code) == ("disk is full", 1)
    assert first.events[-1] == second.events[-1] == "close"


def test_sinks_are_closed_after_a_defect(tmp_path: Path) -> None:
    """An error that is no `EsamError` comes from a defect. It reaches the caller, and every sink lets go."""
    first, second = Remember(OutputError("disk is full")), Remember()
    with pytest.raises(ZeroDivisionError):
        segment_source(Stream("a", error=ZeroDivisionError()), FakeSegmenter(), [first, second], tmp_path)
    assert first.events[-1] == second.events[-1] == "close"
    assert segment_source(Stream("a"), FakeSegmenter(), [Remember()], tmp_path, overwrite=True).done == 1


def test_the_outputs_of_a_new_sink_belong_to_the_run(tmp_path: Path) -> None:
    class Notes(Remember):
        outputs = ("notes",)

        def write(self, frame: Frame, entities: EntityMap) -> None:
            (tmp_path / "notes").mkdir(exist_ok=True)
            (tmp_path / "notes" / frame.name).touch()

    def run(name: str, overwrite: bool) -> None:
        segment_source(ArraySource({name: IMAGE}), FakeSegmenter(), [Notes()], tmp_path, overwrite=overwrite)

    run("a", False)
    run("b", True)
    assert files(tmp_path / "notes") == {"b"}
    (tmp_path / "run.json").unlink()
    with pytest.raises(SettingsError, match="someone else's"):
        run("c", True)


def test_large_frames_of_a_stream_go_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the frame itself is held: the next one is taken when its files are whole."""
    monkeypatch.setattr("esam_rt.run.folder_run.OVERLAPPED_PIXELS", 1)
    stream = Stream(*"abc")
    taken: list[int] = []
    segment_source(stream, FakeSegmenter(lambda number: taken.append(stream.taken)), [LabelMaps()], tmp_path)
    assert taken == [1, 2, 3]


def test_a_photo_that_is_a_link_to_itself_still_has_a_path(tmp_path: Path) -> None:
    from esam_rt.sources import PhotoFolder

    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    summary = segment_source(PhotoFolder(tmp_path), FakeSegmenter(), [LabelMaps()], tmp_path / "out")
    assert (summary.done, summary.failed) == (1, 1)
