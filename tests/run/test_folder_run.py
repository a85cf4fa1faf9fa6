"""A run from photos to files, with a segmenter that needs no networks."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from esam_rt import EntityMap, Settings
from esam_rt.errors import DeviceError, EngineError, InputError, OutputError, SettingsError
from esam_rt.run import RunOptions, RunSummary, folder_run, run_photos, segment_source
from esam_rt.run.resume import RunFolder
from esam_rt.segmenter import SegmenterConfig
from esam_rt.sinks import LabelMaps
from esam_rt.sources import ArraySource, decode, photo_files
from esam_rt.stages import Stage
from esam_rt.storage.atomic import TEMPORARY
from esam_rt.storage.jsonl import append_line, drop_torn_line, read_lines
from esam_rt.storage.locks import kept_from_others
from tests.kernels.kernel_modules import start
from tests.support.fake_segmenter import STAGES, FakeSegmenter

RESULTS = ("labels", "overlays", "report", "entities.json", "photos.jsonl", "errors.jsonl", "run.json")


class Log:
    """Listener that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def begun(self, total: int, done: int) -> None:
        self.events.append(("begun", total, done))

    def photo_begun(self, name: str) -> None:
        self.events.append(("photo", name))

    def photo_done(self) -> None:
        self.events.append(("done",))

    def photo_failed(self, message: str) -> None:
        self.events.append(("failed", message))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """a.png, b.jpg, sub/c.png"""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    for name in ("a.png", "b.jpg", "sub/c.png"):
        image.save(folder / name)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(
    sources: Path | list[Path],
    out: Path,
    segmenter: FakeSegmenter | None = None,
    config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 - frozen
    **options: Any,
) -> RunSummary:
    sources = [sources] if isinstance(sources, Path) else sources
    segmenter = segmenter or FakeSegmenter()
    return run_photos(RunOptions(sources=sources, out=out, segmenter=config, **options), Log(), segmenter.open)


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    """All but what holds times."""
    return {
        name: (folder / name).read_bytes()
        for name in files(folder)
        if name.startswith(("labels/", "overlays/")) or name == "entities.json"
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def raise_at(number: int, error: BaseException) -> Callable[[int], None]:
    def before(seen: int) -> None:
        if seen == number:
            raise error

    return before


def fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every fsync of a file whose name contains `name` finds the disk full."""
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if name in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


def test_writes_every_output_and_the_record_of_the_run(photos: Path, out: Path) -> None:
    segmenter = FakeSegmenter(sha256="ab12")
    settings = Settings.preset("fast").with_overrides({"emr.delta": "0.2"})
    summary = run(photos, out, segmenter, config=SegmenterConfig(settings=settings, method="amg"))
    assert (summary.done, summary.failed, summary.left, summary.entities) == (3, 0, 0, 6)
    assert summary.exit_code == 0
    assert summary.look_at == out / "report" / "index.html"
    assert summary.look_at.is_file()
    assert segmenter.closed
    assert {"labels/a.png", "labels/b.png", "labels/sub/c.png", "overlays/sub/c.jpg"} <= files(out)
    assert np.unique(np.asarray(Image.open(out / "labels/sub/c.png"))).tolist() == [1, 2]
    coco = json.loads((out / "entities.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.jpg", "sub/c.png"]
    assert [a["id"] for a in coco["annotations"]] == [1, 2, 3, 4, 5, 6]
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["emr"]["delta"] == 0.2
    assert record["settings"]["prompts"] == {"strategy": "adaptive", "coarse_side": 16, "fine_side": 32}
    assert record["model"] == {"name": "fake", "checkpoint_sha256": "ab12"}
    assert (record["backend"], record["device"]) == ("none", "cpu")
    assert record["method"] == "amg"
    assert {"python", "esam-rt", "numpy", "numba"} <= record["versions"].keys()
    assert record["started"] <= record["ended"]
    assert record["summary"] == summary.to_json()
    assert [photo["name"] for photo in lines(out / "photos.jsonl")] == ["a.png", "b.jpg", "sub/c.png"]
    assert not (out / "errors.jsonl").exists()


def test_mean_times_have_a_row_a_stage_and_the_photo_as_a_whole(photos: Path, out: Path) -> None:
    times_s = run(photos, out).mean_times_s
    assert set(times_s) == {*STAGES, "total"}
    assert times_s["encoder"] == 0.5
    assert 0 < times_s["total"] < 0.5  # measured, not summed: the fake only says that it took so long


def test_only_what_is_asked_for_is_written(photos: Path, out: Path) -> None:
    summary = run(photos, out, write=["coco"])
    assert files(out) == {"entities.json", "photos.jsonl", "run.json"}
    assert summary.look_at == out


@pytest.mark.parametrize(("write", "words"), [(["label"], "labels"), ([], "expected some of labels, coco")])
def test_unknown_or_no_outputs(photos: Path, out: Path, write: list[str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        run(photos, out, write=write)
    assert not out.exists()


def test_bad_photos_are_listed_and_the_rest_goes_on(photos: Path, out: Path) -> None:
    (photos / "b.jpg").write_text("not a photo")
    (photos / "empty.png").touch()
    log = Log()
    options = RunOptions(sources=[photos], out=out)
    summary = run_photos(options, log, FakeSegmenter().open)
    assert (summary.done, summary.failed, summary.left, summary.exit_code) == (2, 2, 0, 1)
    errors = lines(out / "errors.jsonl")
    assert [e["name"] for e in errors] == ["b.jpg", "empty.png"]
    assert errors[0]["error"] == "InputError"
    assert "b.jpg" in errors[0]["message"]
    assert ("failed", errors[0]["message"]) in log.events
    assert log.events[0] == ("begun", 4, 0)
    assert len(json.loads((out / "entities.json").read_text())["images"]) == 2


def test_large_photos_are_refused(photos: Path, out: Path) -> None:
    summary = run(photos, out, max_pixels=599)
    assert summary.failed == 3
    assert run(photos, out, max_pixels=600, overwrite=True).failed == 0


def test_limit_takes_the_first_photos(photos: Path, out: Path) -> None:
    assert run(photos, out, limit=2).done == 2
    assert files(out / "labels") == {"a.png", "b.png"}
    assert run(photos, out, limit=2, resume=True).done == 0  # the limit counts what was done before


@pytest.mark.parametrize("number", [0, 1, 2])
def test_interrupt_leaves_whole_files_and_resume_goes_on(photos: Path, tmp_path: Path, number: int) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(photos, whole)
    first = run(photos, out, FakeSegmenter(raise_at(number, KeyboardInterrupt())))
    assert (first.exit_code, first.done, first.left, first.error) == (130, number, 3 - number, "interrupted")
    assert len(json.loads((out / "entities.json").read_text())["images"]) == number
    assert not [name for name in files(out) if Path(name).name.startswith(".")]
    segmenter = FakeSegmenter()
    second = run(photos, out, segmenter, resume=True)
    assert (second.exit_code, second.done, second.done_before) == (0, 3 - number, number)
    assert segmenter.seen == 3 - number
    assert second.entities == 6
    assert files(out) == files(whole)
    assert contents(out) == contents(whole)


def test_interrupt_right_after_a_journal_line_counts_the_photo(photos: Path, out: Path) -> None:
    class Interrupted(Log):
        def photo_done(self) -> None:
            raise KeyboardInterrupt

    options = RunOptions(sources=[photos], out=out)
    summary = run_photos(options, Interrupted(), lambda _: FakeSegmenter())
    assert (summary.exit_code, summary.done, summary.left) == (130, 1, 2)
    assert run(photos, out, resume=True).done == 2


def test_interrupt_between_a_photos_files_does_it_again(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("esam_rt.sinks.Overlays.write", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(photos, out).exit_code == 130
    assert files(out / "labels") == {"a.png"}
    assert run(photos, out, resume=True).done == 3
    assert files(out / "overlays") == {"a.jpg", "b.jpg", "sub/c.jpg"}


def test_torn_last_line_of_the_journal_is_dropped(photos: Path, out: Path) -> None:
    run(photos, out)
    journal = out / "photos.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])
    summary = run(photos, out, resume=True)
    assert (summary.done, summary.done_before) == (1, 2)
    assert [photo["name"] for photo in lines(journal)] == ["a.png", "b.jpg", "sub/c.png"]
    assert journal.read_bytes().endswith(b"\n")


def test_journal_counts_whole_lines_only(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    drop_torn_line(journal)
    assert list(read_lines(journal)) == []
    journal.write_bytes(b"one\ntwo\nthr")
    assert list(read_lines(journal)) == ["one", "two"]
    drop_torn_line(journal)
    append_line(journal, "three")
    assert list(read_lines(journal)) == ["one", "two", "three"]


def test_broken_journal_is_told(photos: Path, out: Path) -> None:
    run(photos, out)
    with (out / "photos.jsonl").open("r+b") as f:
        f.write(b"####")
    with pytest.raises(InputError, match="journal"):
        run(photos, out, resume=True)


def test_resume_tries_failed_photos_again(photos: Path, out: Path) -> None:
    good = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(b"")
    assert run(photos, out).failed == 1
    assert run(photos, out, resume=True).failed == 1
    assert len(lines(out / "errors.jsonl")) == 1
    (photos / "b.jpg").write_bytes(good)
    summary = run(photos, out, resume=True)
    assert (summary.done, summary.done_before, summary.exit_code) == (1, 2, 0)
    assert not (out / "errors.jsonl").exists()


def test_a_photo_that_two_runs_did_counts_once(photos: Path, out: Path) -> None:
    run(photos, out, limit=2)
    journal = out / "photos.jsonl"
    journal.write_text(journal.read_text() * 2)
    summary = run(photos, out, resume=True)
    assert (summary.done, summary.done_before, summary.entities) == (1, 2, 6)
    coco = json.loads((out / "entities.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.jpg", "sub/c.png"]
    assert len(coco["annotations"]) == 6


def test_resume_of_nothing_begins(photos: Path, out: Path) -> None:
    assert run(photos, out, resume=True).done == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"config": SegmenterConfig(settings=Settings().with_overrides({"usr.rho": 0.3}))},
            r"settings\.usr\.rho was 0\.1.*0\.3",
        ),
        ({"config": SegmenterConfig(method="amg")}, "method was 'e-sam', now it is 'amg'"),
        ({"write": ["labels"]}, "write was"),
        ({"segmenter": FakeSegmenter(sha256="other")}, r"model\.checkpoint_sha256"),
    ],
)
def test_resume_with_other_settings_is_refused(photos: Path, out: Path, change: dict[str, Any], words: str) -> None:
    run(photos, out, limit=1)
    before = contents(out)
    with pytest.raises(SettingsError, match=words):
        run(photos, out, **change, resume=True)
    assert contents(out) == before


def test_resume_with_other_photos_of_the_same_names_is_refused(photos: Path, out: Path, tmp_path: Path) -> None:
    run(photos, out, limit=1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_bytes((photos / "a.png").read_bytes())
    for source in (other, other / "a.png"):
        with pytest.raises(
            SettingsError, match=r"a\.png is finished and was .*photos/a\.png, now it is .*other/a\.png\."
        ):
            run(source, out, resume=True)


def test_resume_where_another_photo_has_got_a_name_that_is_done_is_refused(tmp_path: Path, out: Path) -> None:
    for name in ("1/a.png", "1/c.png", "2/a.png", "2/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    run([tmp_path / "1" / "a.png", tmp_path / "2" / "b.png"], out)
    before = contents(out)
    with pytest.raises(SettingsError, match=r"a\.png is finished and was .*1/a\.png, now it is .*2/a\.png\."):
        run([tmp_path / "1" / "c.png", tmp_path / "2" / "a.png", tmp_path / "2" / "b.png"], out, resume=True)
    assert contents(out) == before


def test_resume_of_folders_of_one_name_in_another_order_is_refused(tmp_path: Path, out: Path) -> None:
    sources = [tmp_path / place / "photos" for place in ("left", "right")]
    for source in sources:
        source.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(source / "a.png")
    run(sources, out, limit=1)
    with pytest.raises(SettingsError, match="is finished and was"):
        run(sources[::-1], out, resume=True)


def test_resume_of_photos_named_one_by_one_takes_those_that_were_added(photos: Path, out: Path) -> None:
    run([photos / "b.jpg"], out)
    summary = run([photos / "a.png", photos / "b.jpg"], out, resume=True)
    assert (summary.done, summary.done_before) == (1, 1)
    assert run(photos, out, resume=True).done == 1


def test_resume_with_names_that_gained_prefixes_is_refused(tmp_path: Path, out: Path) -> None:
    sources = [tmp_path / "left", tmp_path / "right"]
    for source, name in zip(sources, ("a.png", "b.png"), strict=True):
        source.mkdir()
        Image.new("RGB", (8, 8)).save(source / name)
    run(sources, out)
    before = {name: (out / name).read_bytes() for name in files(out)}
    Image.new("RGB", (8, 8)).save(sources[1] / "a.png")
    segmenter = FakeSegmenter()
    with pytest.raises(SettingsError, match=r"a\.png is finished but not among .* found left/a\.png\. .*--overwrite"):
        run(sources, out, segmenter, resume=True)
    assert segmenter.seen == 0
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    assert run(sources, out, overwrite=True).done == 3


@pytest.mark.parametrize("new", ["d.png", None])
def test_resume_without_a_photo_that_is_done_is_refused(photos: Path, out: Path, new: str | None) -> None:
    run(photos, out, limit=1)
    if new:
        (photos / "a.png").rename(photos / new)
    else:
        (photos / "a.png").unlink()
    with pytest.raises(SettingsError, match=r"photos\.jsonl: a\.png is finished but not among .* found [23] others"):
        run(photos, out, resume=True)


def test_resume_where_files_would_be_called_otherwise_is_refused(photos: Path, out: Path) -> None:
    (photos / "b.jpg").rename(photos / "b.jpg.png")
    run(photos, out)
    before = contents(out)
    for name in ("b.jpg", "b.webp"):  # the files of the first would be those of b.jpg.png
        Image.new("RGB", (8, 8)).save(photos / name)
    with pytest.raises(SettingsError, match=r"files of b\.jpg\.png are named b\.jpg, .* named b\.jpg\.png\. Rename"):
        run(photos, out, resume=True)
    assert contents(out) == before
    (photos / "b.jpg").unlink()
    assert run(photos, out, resume=True).done == 1


def test_resume_goes_on_with_photos_that_were_added(photos: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    (photos / "b.jpg").rename(tmp_path / "b.jpg")
    run(photos, out)
    (tmp_path / "b.jpg").rename(photos / "b.jpg")
    (photos / "sub" / "a.jpg").write_bytes((photos / "b.jpg").read_bytes())
    summary = run(photos, out, resume=True)
    assert (summary.done, summary.done_before, summary.entities) == (2, 2, 8)
    run(photos, whole)
    assert files(out) == files(whole)
    assert contents(out) == contents(whole)  # also the ids of entities.json, although b.jpg was last


@pytest.mark.parametrize("seed", range(3))
def test_results_follow_the_source_whatever_the_order_of_the_journal(photos: Path, out: Path, seed: int) -> None:
    """Another process may have finished the photos in any order, and some twice."""
    for i in range(12):
        (photos / f"{i}é.png").write_bytes((photos / "a.png").read_bytes())
    run(photos, out)
    whole = contents(out)
    index = (out / "report" / "index.html").read_text()
    journal = out / "photos.jsonl"
    kept = journal.read_text().splitlines(keepends=True)
    mixed = [*kept, *kept[::4]]
    np.random.default_rng(seed).shuffle(mixed)
    journal.write_text("".join(mixed))
    assert run(photos, out, resume=True).done_before == 15
    assert contents(out) == whole
    again = (out / "report" / "index.html").read_text()
    names = re.compile(r"\d+é\.png|[ab]\.(?:png|jpg)|sub/c\.png")
    assert names.findall(again) == names.findall(index)


def test_a_journal_with_a_line_that_is_no_record_is_told_in_any_order(photos: Path, out: Path) -> None:
    run(photos, out)
    folder = RunFolder(out)
    folder.in_order_of(["b.jpg", "a.png"])
    assert [record.name for record in folder.records()] == ["b.jpg", "a.png"]
    for broken in ('{"name":"a.png"', '{"name":7}', "[]", '{"nam'):
        (out / "photos.jsonl").write_text(f"{broken}\n")
        with pytest.raises(InputError, match="is not a line of a run's journal"):
            list(folder.records())


def test_earlier_run_needs_a_decision(photos: Path, out: Path) -> None:
    run(photos, out)
    before = {name: (out / name).read_bytes() for name in files(out)}
    with pytest.raises(SettingsError, match=r"--resume.*--overwrite"):
        run(photos, out)
    with pytest.raises(SettingsError, match="give one of them"):
        run(photos, out, resume=True, overwrite=True)
    assert {name: (out / name).read_bytes() for name in files(out)} == before


def test_overwrite_removes_its_own_files_only(photos: Path, out: Path) -> None:
    run(photos, out)
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine")
    (out / "mine.json").write_text("{}")
    (photos / "a.png").unlink()
    assert run(photos, out, overwrite=True).done == 2
    assert "labels/a.png" not in files(out)
    assert "overlays/a.jpg" not in files(out)
    assert {"notes/mine.txt", "mine.json"} <= files(out)
    assert len(lines(out / "photos.jsonl")) == 2


def test_overwrite_keeps_what_a_link_points_to(photos: Path, out: Path, tmp_path: Path) -> None:
    run(photos, out)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").touch()
    (out / "labels").rename(tmp_path / "moved")
    (out / "labels").symlink_to(tmp_path / "elsewhere")
    run(photos, out, overwrite=True)
    assert files(tmp_path / "elsewhere") == {"mine.txt"}
    assert not (out / "labels").is_symlink()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("name", RESULTS)
def test_folders_of_others_are_left_alone(photos: Path, out: Path, name: str, options: dict[str, bool]) -> None:
    theirs = out / name / "theirs.txt" if "." not in name else out / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    with pytest.raises(SettingsError, match="someone else's"):
        run(photos, out, **options)
    assert theirs.read_text() == "{}"


def test_errors_before_the_first_photo_remove_nothing(photos: Path, out: Path) -> None:
    run(photos, out)
    before = contents(out)

    def no_model(options: RunOptions) -> FakeSegmenter:
        raise EngineError("no")

    with pytest.raises(EngineError):
        run_photos(RunOptions(sources=[photos], out=out, overwrite=True), Log(), no_model)
    assert contents(out) == before


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_two_runs_at_once_do_not_share_a_folder(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]
) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "link").symlink_to(out)
    told: list[str] = []

    def again(number: int) -> None:
        if number == 1:
            with pytest.raises(SettingsError) as caught:
                run(photos, tmp_path / "link", **options)
            told.append(str(caught.value))
            assert run(photos, tmp_path / "other").done == 3

    assert run(photos, out, FakeSegmenter(again)).done == 3
    assert told == [
        f"--out {tmp_path / 'link'}: another run is writing there. Wait for its end, or choose another folder."
    ]
    assert len(lines(out / "photos.jsonl")) == 3
    assert not [name for name in files(tmp_path) if "lock" in name]
    assert run(photos, out, resume=True).done == 0


def test_a_run_of_another_process_keeps_the_folder_until_it_ends_or_is_killed(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    code = """
import sys, time
from pathlib import Path
from esam_rt.storage.locks import kept_from_others
with kept_from_others(Path(sys.argv[1])):
    print("begun", flush=True)
    time.sleep(3600)
"""
    with start(code, tmp_path / "cache", str(out)) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        with pytest.raises(SettingsError, match="another run is writing there"):
            run(photos, out)
        assert not out.exists()
        process.kill()
    assert run(photos, out).done == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove what is open")
def test_a_lock_that_is_removed_when_another_has_opened_it_is_not_held(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    flock = fcntl.flock
    with ExitStack() as first:
        first.enter_context(kept_from_others(out))

        def late(descriptor: int, operation: int) -> None:
            if operation & fcntl.LOCK_EX:
                first.close()
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", late)
        with pytest.raises(SettingsError, match="another run"), kept_from_others(out):
            pass
    with kept_from_others(out):
        pass


def test_a_cache_that_cannot_be_written_locks_nothing(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "file"))
    assert run(photos, out).done == 3


def test_out_inside_a_source_is_not_a_source(photos: Path) -> None:
    out = photos / "results"
    assert run(photos, out).done == 3
    assert run(photos, out, resume=True).done == 0
    assert run(photos, out, overwrite=True).done == 3
    assert files(out / "labels") == {"a.png", "b.png", "sub/c.png"}


def test_sources_that_overwrite_would_remove_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"[Cc]hoose another folder"):
        run(photos, photos)
    photos.rename(tmp_path / "labels")
    for source in (tmp_path / "labels", tmp_path / "labels" / "a.png"):
        with pytest.raises(SettingsError, match=r"[Cc]hoose another folder"):
            run(source, tmp_path, overwrite=True)
    assert files(tmp_path / "labels") == {"a.png", "b.jpg", "sub/c.png"}


def test_photos_of_one_stem_get_files_of_their_own(photos: Path, out: Path) -> None:
    Image.new("RGB", (8, 8)).save(photos / "a.jpg")
    assert run(photos, out).done == 4
    assert len(files(out / "labels")) == 4
    assert {"labels/a.png.png", "labels/a.jpg.png"} <= files(out)


def test_out_that_cannot_be_a_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="file"):
            run(photos, out)


@pytest.mark.parametrize("sources", [["missing"], ["empty"], ["photos", "missing"]])
def test_missing_and_empty_sources(photos: Path, tmp_path: Path, out: Path, sources: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=sources[-1]):
        run([tmp_path / source for source in sources], out)
    assert not out.exists()


@pytest.mark.parametrize("error", [DeviceError("out of memory"), EngineError("broken"), OutputError("full")])
def test_what_cannot_be_mended_stops_the_run(photos: Path, out: Path, error: DeviceError | EngineError) -> None:
    summary = run(photos, out, FakeSegmenter(raise_at(1, error)))
    assert (summary.done, summary.left) == (1, 2)
    assert summary.exit_code == error.exit_code
    assert summary.error == str(error)
    assert len(json.loads((out / "entities.json").read_text())["images"]) == 1
    assert run(photos, out, resume=True).done == 2


def test_out_of_memory_names_the_photo(photos: Path, out: Path) -> None:
    summary = run(photos, out, FakeSegmenter(raise_at(1, MemoryError())))
    assert summary.exit_code == 4
    assert "b.jpg" in summary.error


@pytest.mark.parametrize("part", ["sinks.Overlays.write", "sinks.HtmlReport.write"])
def test_out_of_memory_outside_the_segmenter(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(f"esam_rt.{part}", lambda *a, **k: (_ for _ in ()).throw(MemoryError))
    summary = run(photos, out)
    assert summary.exit_code == 4
    assert "a.png" in summary.error
    assert (out / "run.json").is_file()


@pytest.mark.parametrize("name", [".jpg", "photos.jsonl", ".json"])
def test_full_disk(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run(photos, out, limit=1)
    with monkeypatch.context() as patch:
        if name == ".json":  # entities.json and run.json, at the end
            patch.setattr("esam_rt.sinks.CocoJson.close", lambda *a: (_ for _ in ()).throw(OutputError("disk is full")))
        else:
            fill_disk(patch, name)
        summary = run(photos, out, resume=True)
    assert summary.exit_code == 1
    assert "full" in summary.error
    assert not [file for file in files(out) if Path(file).name.startswith(".")]
    second = run(photos, out, resume=True)
    assert (second.exit_code, second.entities) == (0, 6)
    assert len(lines(out / "photos.jsonl")) == 3


def test_a_profile_shows_what_ran_beside_what(photos: Path, out: Path) -> None:
    assert run(photos, out, profile=True).done == 3
    events = [e for e in json.loads((out / "profile.json").read_text()) if e["ph"] == "X"]
    assert {(e["name"], e["args"]["photo"]) for e in events} == {
        (stage, name) for stage in ("reading", "writing") for name in ("a.png", "b.jpg", "sub/c.png")
    }
    assert len({e["tid"] for e in events if e["name"] == "reading"}) == 1
    assert {e["tid"] for e in events if e["name"] == "reading"}.isdisjoint(
        e["tid"] for e in events if e["name"] == "writing"
    )
    assert run(photos, out, overwrite=True).done == 3
    assert not (out / "profile.json").exists()


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_what_a_killed_run_left_half_written_is_removed(photos: Path, out: Path, option: str) -> None:
    run(photos, out, limit=1)
    killed = [folder / f"{TEMPORARY}0123456789ab.json" for folder in (out, *(p for p in out.rglob("*") if p.is_dir()))]
    assert len(killed) > 4
    for path in killed:
        path.write_text("[")
    (out / ".mine").touch()
    assert run(photos, out, **{option: True}).left == 0
    assert [path.name for path in out.rglob(".*")] == [".mine"]


def test_what_a_run_left_that_was_killed_at_once_is_removed(photos: Path, out: Path) -> None:
    out.mkdir()
    (out / f"{TEMPORARY}0123456789ab.json").write_text("{")
    assert run(photos, out).left == 0
    assert not list(out.rglob(".*"))


def test_interrupt_while_a_photo_is_segmented_keeps_the_one_before(photos: Path, out: Path) -> None:
    """The files and the journal line of the photo before are finished first."""
    summary = run(photos, out, FakeSegmenter(raise_at(1, KeyboardInterrupt())), profile=True)
    assert (summary.exit_code, summary.done, summary.left) == (130, 1, 2)
    assert [photo["name"] for photo in lines(out / "photos.jsonl")] == ["a.png"]
    assert files(out / "labels") == {"a.png"}
    assert json.loads((out / "profile.json").read_text())


def test_a_disk_that_fills_up_while_the_next_photo_is_segmented(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, ".png")
    numbers: list[int] = []
    summary = run(photos, out, FakeSegmenter(numbers.append))
    assert summary.exit_code == 1
    assert "full" in summary.error
    assert (summary.done, summary.left) == (0, 3)
    assert len(numbers) <= 2, "the photo after it at most"
    assert not (out / "photos.jsonl").exists()


def test_large_photos_go_alone(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is held meanwhile; small ones are read ahead."""
    order: list[str] = []

    def tell(step: str, owner: Any, name: str, name_of: Callable[..., str]) -> None:
        wrapped = getattr(owner, name)

        def told(*arguments: Any) -> Any:
            order.append(f"{step} {name_of(*arguments)}")
            return wrapped(*arguments)

        monkeypatch.setattr(owner, name, told)

    tell("read", photo_files, "read_photo", lambda path, name, *options: name)
    tell("write", LabelMaps, "write", lambda sink, frame, result: frame.name)
    monkeypatch.setattr(folder_run, "OVERLAPPED_PIXELS", 1)
    assert run(photos, out, FakeSegmenter(lambda number: order.append(f"segment {number}"))).done == 3
    each = enumerate(["a.png", "b.jpg", "sub/c.png"])
    assert order == [step for i, name in each for step in (f"read {name}", f"segment {i}", f"write {name}")]


def test_a_link_to_itself_is_one_photo_that_fails(photos: Path, out: Path) -> None:
    (photos / "loop.jpg").symlink_to("loop.jpg")
    summary = run(photos, out)
    assert (summary.done, summary.failed, summary.exit_code) == (3, 1, 1)
    assert "loop.jpg" in (out / "errors.jsonl").read_text()


def test_out_of_memory_while_reading_is_the_photos_error(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, *options: object) -> Any:
        if path.name == "b.jpg":
            raise MemoryError
        return decode.read_photo(path, *options)  # type: ignore[arg-type]

    monkeypatch.setattr(photo_files, "read_photo", read)
    summary = run(photos, out)
    assert (summary.exit_code, summary.done, summary.failed, summary.left) == (1, 2, 1, 0)
    assert "b.jpg needs more memory than there is" in (out / "errors.jsonl").read_text()


def test_the_range_is_recorded_and_kept(photos: Path, out: Path) -> None:
    samples = np.full((4, 4), 4095, np.uint16)
    samples[0] = 0
    Image.fromarray(samples).save(photos / "d.png")
    seen: list[int] = []

    class Spy(FakeSegmenter):
        def __call__(self, image_hwc_rgb: NDArray[np.uint8]) -> EntityMap:
            seen.append(int(image_hwc_rgb.max()))
            return super().__call__(image_hwc_rgb)

    assert run(photos / "d.png", out, Spy(), sample_range=(0, 4095)).done == 1
    assert seen == [255]
    assert json.loads((out / "run.json").read_text())["range"] == [0, 4095]
    assert run(photos / "d.png", out, sample_range=(0, 4095), resume=True).done_before == 1
    with pytest.raises(SettingsError, match="range"):
        run(photos / "d.png", out, resume=True)
    assert run(photos / "d.png", out, overwrite=True).done == 1
    assert json.loads((out / "run.json").read_text())["range"] == "full"


def test_files_left_out_are_in_the_record(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("x.gif", "y.GIF", "z"):
        (photos / name).touch()
    out = photos / "results"
    summary = run(photos, out)
    assert summary.left_out == summary.to_json()["left_out"] == {".gif": 2, "": 1}
    assert json.loads((out / "run.json").read_text())["summary"]["left_out"] == {".gif": 2, "": 1}
    assert "left out 3 files that are no photos by their names: 2 .gif, 1 without a suffix" in caplog.text
    assert run(photos, out, overwrite=True).left_out == {".gif": 2, "": 1}, "its own files are not counted"


def test_a_run_that_nobody_follows(photos: Path, tmp_path: Path) -> None:
    segmenter = FakeSegmenter()
    summary = run_photos(RunOptions(sources=[photos], out=tmp_path / "out"), make_segmenter=segmenter.open)
    assert (summary.exit_code, summary.done) == (0, 3)


class InHurry(FakeSegmenter):
    """It finds the deadline too short for every second photo."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: list[float | None] = []
        self.is_warm = False

    def __call__(self, image_hwc_rgb: NDArray[np.uint8], *, deadline_s: float | None = None) -> EntityMap:
        self.deadlines.append(deadline_s)
        result = super().__call__(image_hwc_rgb)
        complete = len(self.deadlines) % 2 == 1
        return replace(result, complete=complete, completed_stages=(Stage.MMG,), prompts_decoded=len(self.deadlines))

    def warm_up(self) -> None:
        self.is_warm = True


def test_a_deadline_reaches_each_photo_and_the_records_say_what_it_cut_short(photos: Path, out: Path) -> None:
    segmenter = InHurry()
    summary = run(photos, out, segmenter, deadline_s=0.25)
    assert segmenter.deadlines == [0.25] * 3
    assert (summary.done, summary.incomplete) == (3, 1)
    record = json.loads((out / "run.json").read_text())
    assert (record["deadline_s"], record["summary"]["incomplete"]) == (0.25, 1)
    journal = lines(out / "photos.jsonl")
    assert [line["complete"] for line in journal] == [True, False, True]
    assert [line["prompts_decoded"] for line in journal] == [1, 2, 3]
    assert {tuple(line["completed_stages"]) for line in journal} == {("mmg",)}
    images = json.loads((out / "entities.json").read_text())["images"]
    assert [image["complete"] for image in images] == [True, False, True]
    with pytest.raises(SettingsError, match=r"deadline_s was 0\.25, now it is 0\.5"):
        run(photos, out, InHurry(), deadline_s=0.5, resume=True)


def test_a_run_refuses_a_deadline_before_it_begins(photos: Path, out: Path) -> None:
    with pytest.raises(SettingsError, match=r"deadline_s: found 0, expected a number of seconds above 0"):
        run(photos, out, InHurry(), deadline_s=0)
    assert not out.exists()


def test_a_run_with_a_deadline_warms_up(monkeypatch: pytest.MonkeyPatch, photos: Path, out: Path) -> None:
    segmenter = InHurry()
    monkeypatch.setattr("esam_rt.segmenter.EntitySegmenter", lambda model, **options: segmenter)
    run_photos(RunOptions(sources=[photos], out=out))
    assert not segmenter.is_warm
    run_photos(RunOptions(sources=[photos], out=out, deadline_s=1.5, overwrite=True))
    assert segmenter.is_warm
    assert segmenter.deadlines == [None] * 3 + [1.5] * 3


def test_frames_of_any_source_have_a_deadline(out: Path) -> None:
    segmenter = InHurry()
    source = ArraySource({"a": np.zeros((8, 8, 3), np.uint8), "b": np.zeros((8, 8, 3), np.uint8)})
    assert segment_source(source, segmenter, [], out, deadline_s=0.1).incomplete == 1
    assert segmenter.deadlines == [0.1, 0.1]
