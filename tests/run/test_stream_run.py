"""Runs of a stream into files, with a segmenter that needs no networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from esam_rt.errors import SettingsError
from esam_rt.run import RunOptions, StreamOptions, run_stream
from esam_rt.run.stream import StreamResult
from esam_rt.run.stream_statistics import SourceStatistics
from tests.run.test_folder_run import files, lines, raise_at
from tests.support.fake_segmenter import FakeSegmenter


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def run(photos: Path, segmenter: FakeSegmenter, stream: StreamOptions, **options: Any) -> Any:
    return run_stream(RunOptions([photos], photos.parent / "out", **options), stream, None, segmenter.open)


def test_every_frame_has_its_files_and_identities(photos: Path) -> None:
    seen: list[tuple[str, int]] = []

    def follow(result: StreamResult, statistics: SourceStatistics) -> None:
        seen.append((result.name, statistics.done))

    options = RunOptions([photos], photos.parent / "out")
    summary = run_stream(options, StreamOptions(track=True), None, FakeSegmenter().open, follow)
    assert (summary.done, summary.failed, summary.left, summary.exit_code, summary.error) == (6, 0, 0, 0, "")
    assert seen == [(f"{i}.png", i + 1) for i in range(6)]
    out = photos.parent / "out"
    assert files(out / "labels") == {f"{i}.png" for i in range(6)}
    annotations = json.loads((out / "entities.json").read_text())["annotations"]
    assert [annotation["track_id"] for annotation in annotations] == [1, 2] * 6
    record = json.loads((out / "run.json").read_text())
    assert record["stream"] == {"policy": "every", "track": True, "rate_hz": None}


def test_latest_leaves_frames_out_and_none_is_missed(photos: Path) -> None:
    summary = run(photos, FakeSegmenter(), StreamOptions("latest"), write=("labels",))
    assert (summary.failed, summary.left, summary.exit_code) == (0, 0, 0)
    assert 1 <= summary.done <= 6
    assert "5.png" in files(photos.parent / "out" / "labels")  # the newest one is never left out


def test_a_damaged_frame_is_listed(photos: Path) -> None:
    (photos / "3.png").write_bytes(b"no photo")
    summary = run(photos, FakeSegmenter(), StreamOptions(), write=("labels",))
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (5, 1, 0, 1)
    assert [line["name"] for line in lines(photos.parent / "out" / "errors.jsonl")] == ["3.png"]


def test_an_interrupt_keeps_what_is_done(photos: Path) -> None:
    summary = run(photos, FakeSegmenter(raise_at(2, KeyboardInterrupt())), StreamOptions())
    assert (summary.done, summary.exit_code, summary.error) == (2, 130, "interrupted")
    assert len(json.loads((photos.parent / "out" / "entities.json").read_text())["images"]) == 2


def test_a_limit_ends_the_stream(photos: Path) -> None:
    assert run(photos, FakeSegmenter(), StreamOptions(), limit=2, write=("labels",)).done == 2


def test_a_pace_plays_all_frames(photos: Path) -> None:
    assert run(photos, FakeSegmenter(), StreamOptions(rate_hz=1e6), write=("labels",)).done == 6


def test_a_stream_cannot_be_resumed(photos: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be resumed"):
        run(photos, FakeSegmenter(), StreamOptions(), resume=True)
