"""The options of `run` that treat photos as a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rosbags.highlevel import AnyReader
from typer.testing import CliRunner

from esam_rt.cli.app import app
from esam_rt.run import run_options
from tests.run.test_folder_run import files
from tests.sources.test_bags import FRONT, SMALL, write_ros2
from tests.support.fake_segmenter import FakeSegmenter


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_options, "open_segmenter", lambda options, on_event: FakeSegmenter())
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_track_and_pace_write_all_frames(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["run", str(photos), "--out", str(out), "--write", "labels,coco", "--track", "--fps", "1000000"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert files(out / "labels") == {"0.png", "1.png", "2.png"}
    assert '"track_id": 2' in (out / "entities.json").read_text()


def test_an_unknown_policy_is_refused(photos: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(photos), "--out", str(tmp_path / "out"), "--policy", "newest"])
    assert result.exit_code == 2
    assert "--policy newest: unknown" in result.output


def test_topics_are_copied_into_the_mcap(photos: Path, tmp_path: Path) -> None:
    bag, out = write_ros2(tmp_path / "drive", "MCAP"), tmp_path / "out"
    arguments = ["run", str(bag), "--topic", FRONT, "--out", str(out), "--write", "mcap", "--copy-topics", "all"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    with AnyReader([out / "entities.mcap"]) as reader:
        assert {c.topic: c.msgcount for c in reader.connections if "esam" not in c.topic} == {SMALL: 5}


@pytest.mark.parametrize(
    ("write", "message"), [("labels", "Add mcap to --write"), ("labels,mcap", "the source is no bag of ROS 2")]
)
def test_topics_that_cannot_be_copied(photos: Path, tmp_path: Path, write: str, message: str) -> None:
    arguments = ["run", str(photos), "--out", str(tmp_path / "out"), "--write", write, "--copy-topics", "/imu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_coherent_asks_the_segmenter_for_it(photos: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(photos), "--out", str(tmp_path / "out"), "--coherent"])
    assert result.exit_code == 2, result.output
    assert 'track="prompts": the segmenter has no parameter coherent' in result.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray", "local", "--track"], "Leave out --policy, --track, --coherent and --fps"),
        (["--ray", "local", "--coherent"], "Leave out --policy"),
        (["--ray", "local", "--policy", "latest"], "Leave out --policy"),
        (["--ray-workers", "2"], "need --ray"),
        (["--ray", "http://here"], "expected local, auto or HOST:PORT"),
    ],
)
def test_a_stream_is_not_spread_with_ray(photos: Path, tmp_path: Path, options: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["run", str(photos), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
