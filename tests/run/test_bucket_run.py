"""Runs over photos in a bucket: the files of a run over a folder, faults in errors.jsonl, and --resume."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from esam_rt.cli import option_types
from esam_rt.errors import SettingsError
from esam_rt.run import RunOptions, RunSummary, ray_run, run_photos
from esam_rt.run.photo_worker import Job, PhotoWorker, WorkerFacts
from esam_rt.run.ray_cluster import Slot
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sources import PhotoBucket
from esam_rt.storage.buckets import open_bucket
from tests.run.test_folder_run import contents, lines, raise_at
from tests.support.fake_segmenter import FakeSegmenter

URL = "memory://esam-rt/photos"
NAMES = ("1.png", "2.jpg", "10.png", "sub dir/ü#1%20?.png")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[MemoryFileSystem]:
    """The same photos in the bucket and in the folder ``photos``."""
    system, root = open_bucket(URL)
    assert isinstance(system, MemoryFileSystem)
    for seed, name in enumerate(NAMES):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)).save(file)
        system.pipe_file(f"{root}/{name}", file.read_bytes())
    yield system
    system.rm("/esam-rt", recursive=True)


def run(source: Path | str, out: Path, segmenter: FakeSegmenter | None = None, **options: Any) -> RunSummary:
    return run_photos(RunOptions([source], out, **options), None, (segmenter or FakeSegmenter()).open)


def record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text()))


def test_a_bucket_gives_the_files_of_a_folder(bucket: MemoryFileSystem, tmp_path: Path) -> None:
    summary = run(URL, tmp_path / "out")
    run(tmp_path / "photos", tmp_path / "expected")
    assert (summary.exit_code, summary.done) == (0, len(NAMES))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected") and len(contents(tmp_path / "out")) == 9
    assert record(tmp_path / "out")["sources"] == [URL]
    assert {line["path"] for line in lines(tmp_path / "out" / "photos.jsonl")} == {f"{URL}/{name}" for name in NAMES}


@pytest.mark.parametrize("error", [PermissionError("SECRET"), ConnectionError("SECRET")])
def test_a_fault_costs_one_photo_and_is_tried_again(
    error: Exception, bucket: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = MemoryFileSystem.open

    def refuse(self: MemoryFileSystem, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith("/2.jpg"):
            raise error
        return whole(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "open", refuse)
        summary = run(URL, tmp_path / "out")
    assert (summary.exit_code, summary.done, summary.failed) == (1, 3, 1)
    (failure,) = lines(tmp_path / "out" / "errors.jsonl")
    assert failure["name"] == "2.jpg" and failure["message"].startswith(f"{URL}/2.jpg ")
    assert not any(b"SECRET" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    summary = run(URL, tmp_path / "out", resume=True)
    assert (summary.exit_code, summary.done, summary.done_before) == (0, 1, 3)
    run(tmp_path / "photos", tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_an_interrupted_run_is_resumed(bucket: MemoryFileSystem, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(URL, out, FakeSegmenter(raise_at(2, KeyboardInterrupt()))).exit_code == 130
    done = {line["name"] for line in lines(out / "photos.jsonl")}
    assert 0 < len(done) < len(NAMES)
    bucket.copy("/esam-rt/photos", "/esam-rt/moved", recursive=True)
    with pytest.raises(SettingsError, match=r"is finished and was memory://esam-rt/photos/1\.png"):
        run("memory://esam-rt/moved", out, resume=True)
    summary = run(URL, out, resume=True)
    assert (summary.exit_code, summary.done_before, summary.done) == (0, len(done), len(NAMES) - len(done))
    run(tmp_path / "photos", tmp_path / "expected")
    assert contents(out) == contents(tmp_path / "expected")


def test_a_worker_reads_the_bucket_itself(bucket: MemoryFileSystem, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(URL, out, write=["labels"])
    expected = contents(out)
    for path in (out / "labels").rglob("*.png"):
        path.unlink()
    options = RunOptions([URL], out, write=["labels"])
    job = Job(ray_run._for_workers(options, Slot(1, 0)), FakeSegmenter().open)
    assert job.options.sources == (URL,)
    worker = PhotoWorker(job)
    assert isinstance(worker.open(), WorkerFacts)
    records = {line["name"]: line for line in lines(out / "photos.jsonl")}
    for item in pickle.loads(pickle.dumps(PhotoBucket(URL).items())):
        line = worker.segment(item, records[item.name]["stem"], record(out)["started"])
        assert isinstance(line, str) and PhotoRecord.from_json(line).path == f"{URL}/{item.name}"
    assert contents(out) == expected


def test_other_paths_of_the_command_line_are_no_buckets() -> None:
    assert option_types.source("s3://bucket/photos") == "s3://bucket/photos"
    with pytest.raises(SettingsError, match=r"^--gt: found a bucket, expected a path"):
        option_types.path("--gt", "s3://bucket/result")
