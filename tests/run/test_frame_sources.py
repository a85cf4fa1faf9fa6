"""Runs over videos and bags, with a segmenter that needs no networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esam_rt.errors import SettingsError
from esam_rt.run import RunOptions, StreamOptions, run_photos, run_stream
from esam_rt.sinks.sink_table import SINKS
from tests.run.test_folder_run import files
from tests.sources.test_bags import FRONT, LEFT, write_ros2
from tests.sources.test_video import write
from tests.support.fake_segmenter import FakeSegmenter


def test_each_frame_of_a_video_has_its_files(tmp_path: Path) -> None:
    write(str(tmp_path / "clip.mp4"), 5, "mp4")
    out = tmp_path / "out"
    options = RunOptions([tmp_path / "clip.mp4"], out, write=("labels", "coco", "video"))
    summary = run_photos(options, None, FakeSegmenter().open)
    assert (summary.done, summary.failed, summary.exit_code) == (5, 0, 0)
    assert files(out / "labels") == {f"clip/{number:06}.png" for number in range(5)}
    assert (out / "overlay.mp4").stat().st_size > 0
    record = json.loads((out / "run.json").read_text())
    assert record["sources"] == [str(tmp_path / "clip.mp4")]
    with pytest.raises(SettingsError, match="does not know its frames in advance"):
        run_photos(RunOptions([tmp_path / "clip.mp4"], out, resume=True), None, FakeSegmenter().open)


def test_every_sink_of_pictures_takes_the_frames_of_a_bag(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", "MCAP")
    options = RunOptions(
        [bag], tmp_path / "out", write=tuple(SINKS.keys() - {"geotiff", "geopackage"}), topics=(FRONT, LEFT)
    )
    summary = run_photos(options, None, FakeSegmenter().open)
    assert (summary.done, summary.failed, summary.exit_code) == (10, 0, 0)
    found = files(tmp_path / "out" / "labels")
    assert found == {f"{topic[1:]}/{number:06}.png" for topic in (FRONT, LEFT) for number in range(5)}
    assert (tmp_path / "out" / "entities.mcap").is_file()


def test_a_bag_as_a_stream_with_identities(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", "SQLITE3")
    options = RunOptions([bag], tmp_path / "out", write=("coco",), topics=(FRONT,))
    summary = run_stream(options, StreamOptions(track=True), None, FakeSegmenter().open)
    assert (summary.done, summary.exit_code) == (5, 0)
    annotations = json.loads((tmp_path / "out" / "entities.json").read_text())["annotations"]
    assert {"track_id"} <= annotations[0].keys()
