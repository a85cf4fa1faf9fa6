"""Runs into a bucket: the files of a run into a folder, at any fault, and what --resume makes of it elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from esam_rt import EntityMap
from esam_rt.errors import InputError, MissingDependencyError, OutputError, SettingsError
from esam_rt.run import RunOptions, RunSummary, StreamOptions, bucket_run_folder, run_photos, run_stream, segment_source
from esam_rt.run.bucket_run_folder import PARTS, WRITER
from esam_rt.run.photo_worker import Job, PhotoWorker, WorkerFacts
from esam_rt.sinks import LabelMaps
from esam_rt.sinks.sink import RunInfo
from esam_rt.sources import ArraySource, PhotoFolder
from esam_rt.sources.frame import Frame
from esam_rt.storage.bucket_folder import BucketFolder
from esam_rt.storage.locks import kept_from_others
from tests.run.test_folder_run import Log, files, raise_at
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.run_contents import contents

URL = "memory://esam-rt/result"
NAMES = ("1.png", "2.jpg", "10.png", "sub dir/ü#1%20.png")
WRITE = ("labels", "coco", "polygons", "panoptic", "yolo", "sam", "masks", "conceptgraphs", "overlay", "report")


class KilledError(BaseException):
    """Ends a run as a signal does: nothing is written any more."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of all staging folders."""
    folder = tmp_path / "staging"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def bucket(staging: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """An empty bucket. The line of each photo is there at once. No run leaves anything on this machine."""
    monkeypatch.setattr(bucket_run_folder, "PART_S", 0.0)
    yield MemoryFileSystem()
    empty()
    assert list(staging.iterdir()) == []


def empty() -> None:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def expected(photos: Path, tmp_path: Path) -> dict[str, object]:
    """Files of a run into a folder."""
    return run_into_folder(photos, tmp_path / "expected")


def run_into_folder(photos: Path, out: Path, **options: Any) -> dict[str, object]:
    run_photos(RunOptions([photos], out, **{"write": WRITE, **options}), None, FakeSegmenter().open)
    return contents(out)


def run(
    photos: Path | str, segmenter: FakeSegmenter | None = None, log: Log | None = None, **options: Any
) -> RunSummary:
    options = {"write": WRITE, "out": URL, **options}
    return run_photos(RunOptions([photos], **options), log, (segmenter or FakeSegmenter()).open)


def objects() -> dict[str, bytes]:
    """All objects in the folder of the bucket."""
    system = MemoryFileSystem()
    return {path.removeprefix("/esam-rt/result/"): system.cat_file(path) for path in system.find("/esam-rt/result")}


def found(tmp_path: Path) -> dict[str, object]:
    """The objects, compared as files are."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        for name, data in objects().items():
            file = Path(folder) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return contents(Path(folder))


def kept_here(staging: Path, message: str) -> set[str]:
    """Files of a run that could not be copied at its end. They are removed."""
    kept = set[str]()
    for folder in staging.iterdir():
        kept |= {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert f"The last files of this run are in {folder}: " in message
        shutil.rmtree(folder)
    return kept


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: Exception) -> list[str]:
    """Fail from the n-th write on. Return the paths that were written or refused."""
    whole, paths = MemoryFileSystem.open, list[str]()

    def refuse(self: MemoryFileSystem, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            paths.append(path)
            if len(paths) >= number:
                raise error
        return whole(self, path, mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "open", refuse)
    return paths


@pytest.mark.usefixtures("bucket")
def test_a_bucket_gets_the_files_of_a_folder(photos: Path, tmp_path: Path, expected: dict[str, object]) -> None:
    (photos / "3.png").write_text("not a photo")
    with_fault = run_into_folder(photos, tmp_path / "with fault")
    summary = run(photos)
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (4, 1, 0, 1)
    assert found(tmp_path) == with_fault and "errors.jsonl" in with_fault and len(with_fault) > 40
    assert (summary.out, summary.look_at) == (URL, f"{URL}/report/index.html")
    assert json.loads(objects()["run.json"])["summary"]["out"] == URL

    (photos / "3.png").unlink()
    segmenter = FakeSegmenter()
    summary = run(photos, segmenter, resume=True)
    assert (summary.done, summary.done_before, segmenter.seen, summary.exit_code) == (0, 4, 0, 0)
    assert found(tmp_path) == expected


@pytest.mark.usefixtures("bucket")
def test_files_of_finished_photos_do_not_stay_here(photos: Path, staging: Path) -> None:
    class Watch(Log):
        def photo_done(self) -> None:
            here.append({Path(name).name for name in files(staging)})

    here: list[set[str]] = []
    run(photos, log=Watch())
    assert here == [{"photos.jsonl", "run.json"}] * len(NAMES)


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), KilledError()])
@pytest.mark.parametrize("part_s", [0.0, 1e9])
def test_an_interrupted_run_is_resumed_elsewhere(
    photos: Path,
    tmp_path: Path,
    expected: dict[str, object],
    error: BaseException,
    part_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bucket_run_folder, "PART_S", part_s)
    segmenter = FakeSegmenter(raise_at(2, error))
    if isinstance(error, KilledError):
        with pytest.raises(KilledError):
            run(photos, segmenter)
        assert "photos.jsonl" not in objects()
        parts = [name for name in objects() if name.startswith(f"{PARTS}/")]
        assert len(parts) == (0 if part_s else 2)
        done = len(parts)
    else:
        assert run(photos, segmenter).exit_code == 130
        assert not any(name.startswith((PARTS, WRITER)) for name in objects())
        done = objects()["photos.jsonl"].count(b"\n")
        assert done == 2
    summary = run(photos, resume=True)
    assert (summary.done_before, summary.done, summary.exit_code) == (done, len(NAMES) - done, 0)
    assert found(tmp_path) == expected


@pytest.mark.usefixtures("bucket")
def test_a_journal_is_written_in_parts_and_put_together(
    photos: Path, tmp_path: Path, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_run_folder, "PART_S", 1e9)
    monkeypatch.setattr(bucket_run_folder, "PART_BYTES", 1)
    for _ in range(2):
        with pytest.raises(KilledError):
            run(photos, FakeSegmenter(raise_at(1, KilledError())), resume=True)
    parts = sorted(name for name in objects() if name.startswith(f"{PARTS}/"))
    # The second run joined the part of the first one into the journal.
    assert [name.partition("/")[2].partition("-")[0] for name in parts] == ["00000001"]
    # A run that was killed while it ended: a line is there twice.
    BucketFolder(URL).write("photos.jsonl", objects()["photos.jsonl"] + objects()[parts[0]])
    summary = run(photos, resume=True)
    assert (summary.done_before, summary.done) == (2, 2)
    assert found(tmp_path) == expected


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_fails_at_any_write_leaves_a_run_that_can_be_resumed(
    photos: Path, tmp_path: Path, staging: Path, record_property: Callable[[str, object], None]
) -> None:
    expected = run_into_folder(photos, tmp_path / "expected", write=["labels", "coco"])
    failed, kept = 0, set[str]()
    while True:
        empty()
        with pytest.MonkeyPatch.context() as patch:
            writes = fail_at(patch, failed + 1, ConnectionError("SECRET"))
            try:
                summary = run(photos, write=["labels", "coco"])
                message, code = summary.error, summary.exit_code
            except OutputError as e:  # before the first photo
                message, code = str(e), e.exit_code
        if code == 0:
            break
        failed += 1
        assert len(writes) >= failed
        assert message.startswith(f"{URL} ") and "--resume" in message and "SECRET" not in message
        kept |= kept_here(staging, message)
        summary = run(photos, write=["labels", "coco"], resume=True)
        assert (summary.exit_code, summary.done + summary.done_before) == (0, len(NAMES))
        assert found(tmp_path) == expected
    record_property("failed_runs", failed)
    assert failed > 3 * len(NAMES)
    assert {"photos.jsonl", "entities.json", "run.json"} <= kept


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_cannot_be_read_is_told_and_not_changed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos)
    before = objects()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: (_ for _ in ()).throw(PermissionError("SECRET")))
        with pytest.raises(OutputError, match=rf"^{URL}/run\.json may not be read or written\. Check your credentials"):
            run(photos, resume=True)
        patch.setattr(MemoryFileSystem, "ls", lambda *_, **__: (_ for _ in ()).throw(TimeoutError("SECRET")))
        with pytest.raises(OutputError, match=rf"^{URL} cannot be read or written \(TimeoutError\)"):
            run(photos)
    assert objects() == before


@pytest.mark.usefixtures("bucket")
def test_earlier_content_needs_a_decision_and_only_its_own_is_removed(photos: Path) -> None:
    folder = BucketFolder(URL)
    folder.write("mine.txt", b"")
    run(photos)
    folder.write("labels/of a photo that is gone.png", b"")
    with pytest.raises(SettingsError, match=f"^--out {URL}: holds an earlier run; give --resume"):
        run(photos)
    with pytest.raises(SettingsError, match=rf"^{URL}/run\.json: write was "):
        run(photos, write=["labels"], resume=True)
    run(photos, write=["labels"], overwrite=True)
    kinds = {name.partition("/")[0] for name in objects()}
    assert kinds == {"labels", "mine.txt", "photos.jsonl", "run.json"}
    assert "labels/of a photo that is gone.png" not in objects()
    folder.write("run.json", b"[]")
    with pytest.raises(SettingsError, match=r"holds photos\.jsonl, labels, run\.json and no run\.json of esam-rt"):
        run(photos, overwrite=True)


@pytest.mark.usefixtures("bucket")
def test_a_run_stops_when_another_machine_takes_its_folder(photos: Path, staging: Path) -> None:
    def take(number: int) -> None:
        if number == 2:
            folder.write(WRITER, b"of another machine")
            taken.update(objects())

    taken: dict[str, bytes] = {}
    folder = BucketFolder(URL)
    summary = run(photos, FakeSegmenter(take), write=["labels"])
    assert summary.error.startswith(f"{URL}: another run writes there since") and summary.exit_code == 1
    assert objects() == taken
    assert "photos.jsonl" in kept_here(staging, summary.error)
    with kept_from_others(URL), pytest.raises(SettingsError, match="another run is writing there"):
        run(photos, resume=True)


@pytest.mark.usefixtures("bucket")
def test_a_run_that_ends_leaves_the_folder_to_the_run_that_took_it(
    photos: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run begins while the last files are copied."""
    whole = BucketFolder.put

    def put(self: BucketFolder, folder: Path, names: Sequence[str]) -> None:
        whole(self, folder, names)
        if "entities.json" in names:
            self.write(WRITER, b"of another machine")
            taken.update(objects())

    taken: dict[str, bytes] = {}
    monkeypatch.setattr(BucketFolder, "put", put)
    summary = run(photos, write=["labels", "coco"])
    assert "another run writes there since" in summary.error and summary.exit_code == 1
    assert objects() == taken
    kept_here(staging, summary.error)


@pytest.mark.usefixtures("bucket")
def test_a_folder_that_was_removed_in_part_holds_no_finished_photo(
    photos: Path, tmp_path: Path, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos)
    whole, removed = MemoryFileSystem.rm, list[str]()

    def refuse(self: MemoryFileSystem, path: str, **options: Any) -> None:
        whole(self, path, **options)
        removed.append(path)
        if path.endswith("/labels"):
            raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "rm", refuse)
        with pytest.raises(OutputError, match="Then run again with --resume"):
            run(photos, overwrite=True)
    assert removed[-1].endswith("/labels") and "run.json" in objects()
    assert run(photos, resume=True).done == len(NAMES)
    assert found(tmp_path) == expected


@pytest.mark.usefixtures("bucket")
def test_a_recording_that_cannot_be_copied_stays_on_this_machine(
    photos: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BucketFolder.put

    def refuse(self: BucketFolder, folder: Path, names: Sequence[str]) -> None:
        if "overlay.mp4" in names:
            raise OutputError("refused.")
        whole(self, folder, names)

    monkeypatch.setattr(BucketFolder, "put", refuse)
    summary = run(photos, write=["video"])
    assert summary.error.startswith("refused. The last files of this run are in ") and summary.exit_code == 1
    assert "overlay.mp4" in kept_here(staging, summary.error)


@pytest.mark.usefixtures("bucket")
def test_a_name_that_no_object_can_have_costs_one_photo(photos: Path) -> None:
    odd = photos / ("x" * 200)
    for _ in range(4):
        odd /= "x" * 200
    odd.mkdir(parents=True)
    (photos / "1.png").rename(odd / "1.png")
    (photos / "2.jpg").rename(photos / "\udcff.jpg")
    summary = run(photos)
    assert (summary.done, summary.failed) == (2, 2)
    errors = [json.loads(line)["message"] for line in objects()["errors.jsonl"].splitlines()]
    assert all("is no name for objects in a bucket" in message for message in errors)


@pytest.mark.usefixtures("bucket")
def test_photos_and_results_lie_apart(photos: Path) -> None:
    system = MemoryFileSystem()
    for place in ("/esam-rt/photos/1.png", "/esam-rt/photos-2/1.png"):
        system.pipe_file(place, (photos / "1.png").read_bytes())
    source = "memory://esam-rt/photos"
    for out in (source, f"{source}/result", f"{source}/"):
        with pytest.raises(SettingsError, match=f"the photos of {source} are there. Choose a folder beside them"):
            run(source, out=out)
    with pytest.raises(SettingsError, match="are there"):
        run(f"{URL}/labels", out=URL)
    assert run(source, out="memory://esam-rt/photos-2/x").done == 1
    assert run(source, out="memory://esam-rt").done == 1


@pytest.mark.usefixtures("bucket")
def test_a_video_and_sinks_of_others_arrive_whole(photos: Path, tmp_path: Path) -> None:
    class Growing:
        """A sink of somebody else, whose file grows."""

        outputs = ("mine",)

        def open(self, run: RunInfo) -> None:
            self.file = run.folder / "mine" / "names.txt"
            self.file.parent.mkdir()

        def write(self, frame: Frame, entities: EntityMap) -> None:
            with self.file.open("a") as file:
                file.write(f"{frame.name}\n")

        def close(self, summary: Any) -> None:
            pass

    source = ArraySource({"a": np.zeros((8, 8, 3), np.uint8), "b": np.zeros((8, 8, 3), np.uint8)})
    summary = segment_source(source, FakeSegmenter(), [LabelMaps(), Growing()], URL)
    assert summary.done == 2
    assert objects()["mine/names.txt"] == b"a\nb\n"
    expected = run_into_folder(photos, tmp_path / "expected", write=["video"])
    run(photos, write=["video"], overwrite=True)
    mine = {"mine/names.txt": b"a\nb\n"}  # this run does not know the sink
    assert found(tmp_path) == expected | mine and "overlay.mp4" in expected


@pytest.mark.usefixtures("bucket")
def test_a_stream_is_written_too(photos: Path) -> None:
    options = RunOptions([photos], URL, write=["labels"])
    assert run_stream(options, StreamOptions(), None, FakeSegmenter().open).done == len(NAMES)
    assert {name for name in objects() if name.startswith("labels/")} == {
        f"labels/{Path(name).with_suffix('.png').as_posix()}" for name in NAMES
    }


@pytest.mark.usefixtures("bucket")
def test_labelme_names_the_photo(photos: Path) -> None:
    run(photos, write=["labelme"])
    assert json.loads(objects()["labelme/sub dir/ü#1%20.json"])["imagePath"] == NAMES[3]


@pytest.mark.usefixtures("bucket")
def test_a_worker_writes_into_the_bucket_itself(photos: Path, tmp_path: Path, staging: Path) -> None:
    run(photos, write=["labels", "overlay"])
    before = objects()
    for name in before:
        if name.startswith(("labels/", "overlays/")):
            MemoryFileSystem().rm_file(f"/esam-rt/result/{name}")
    worker = PhotoWorker(Job(RunOptions([photos], URL, write=["labels", "overlay"]), FakeSegmenter().open))
    assert isinstance(worker.open(), WorkerFacts)
    started = json.loads(before["run.json"])["started"]
    for item in PhotoFolder([photos]).items():
        line = worker.segment(item, Path(item.name).with_suffix("").as_posix(), started)
        assert isinstance(line, str)
        assert list(staging.iterdir()) == []
    assert objects() == before
    error = worker.segment(item, "a", "of another run")
    assert isinstance(error, SettingsError) and "does not see the folder of this run there" in str(error)
    assert isinstance(worker.segment(item, "\udcff", started), InputError)

    def take(number: int) -> None:
        folder.write("run.json", before["run.json"].replace(started.encode(), b"of another machine"))

    folder = BucketFolder(URL)
    worker = PhotoWorker(Job(RunOptions([photos], URL, write=["labels"]), FakeSegmenter(take).open))
    assert isinstance(worker.open(), WorkerFacts)
    assert isinstance(worker.segment(item, "b", started), SettingsError)
    assert objects().keys() == before.keys()


def test_addresses_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    options = RunOptions([f"file://{tmp_path}", "s3://b/photos", "rtsp://camera", "-", "photos"], f"file://{tmp_path}")
    assert options.sources == (tmp_path, "s3://b/photos", "rtsp://camera", "-", Path("photos"))
    assert options.out == tmp_path
    assert RunOptions([], "result").out == Path("result")
    assert RunOptions([], URL).out == URL
    with pytest.raises(SettingsError, match=r"^--out https://b/x: expected a folder, or one in a bucket such as s3://"):
        RunOptions([], "https://b/x")
    with pytest.raises(SettingsError, match=r"^--out is empty, expected a path"):
        RunOptions([], "")
    with pytest.raises(InputError, match=r"^https://b/x is a URL"):
        RunOptions(["https://b/x"], tmp_path)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("s3://", SettingsError, r"^--out: s3:// names no bucket"),
        ("s3://me:SECRET@b/x", SettingsError, "^--out: s3:// with a query, a port, a password"),
        ("memory://a/run[1]", SettingsError, r"^--out memory://a/run\[1\]: found one of \*\[\], expected the name"),
        ("s3://b/x", MissingDependencyError, "needs s3fs: pip install s3fs"),
    ],
)
def test_a_wrong_bucket_is_told_before_the_model_is_loaded(
    photos: Path, url: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(error, match=message):
        run_photos(RunOptions([photos], url), None, never)


def never(options: RunOptions) -> FakeSegmenter:
    raise AssertionError
