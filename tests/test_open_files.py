"""Too few files that may be open: one sentence, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from esam_rt.entity_map import EntityMap
from esam_rt.run import segment_source
from esam_rt.sinks import LabelMaps, RunInfo
from esam_rt.sources import Frame, PhotoFolder
from esam_rt.storage.atomic import write_bytes
from tests.cli.test_app import FAKE_RUN, ROOT, start
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.processes import GUARD_S

resource = pytest.importorskip("resource", reason="Windows has no such limit")
SENTENCE = "too many open files: the limit of this process is "


@contextmanager
def no_more_files() -> Iterator[None]:
    """This process may open no more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("limit", [6, 10, 30])
def test_a_limit_that_is_too_low_for_any_command(photos: Path, tmp_path: Path, limit: int) -> None:
    command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", sys.executable, "-m", "esam_rt"]
    command += ["run", str(photos), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=GUARD_S, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"error: {SENTENCE}{limit}, and esam-rt needs 32 beside those")
    assert done.stderr.endswith("ulimit -n 1024.\n") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_files_run_out_for_good_in_a_run(photos: Path, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))"
    head, _, tail = FAKE_RUN.partition("think = ")
    script = f"{head}\ndef think(number):\n    if number == 2: {limit}\n{tail.partition(chr(10))[2]}"
    out = tmp_path / "out"
    process = start(script, "0", "run", photos, "--out", out)
    _, stderr = process.communicate(timeout=GUARD_S)
    assert process.returncode == 2, stderr
    assert stderr.startswith(f"error: {SENTENCE}") and stderr.count("\n") == 1
    assert json.loads((out / "photos.jsonl").read_text().splitlines()[0])["name"] == "1.png"
    assert not list(out.rglob(".*"))


class Exhausted(PhotoFolder):
    """Photos, of which the second one cannot be opened, because too many files are open."""

    def items(self) -> list[Any]:
        """All photos."""
        first, second, *others = super().items()
        return [first, _Exhausted(second), *others]


class _Exhausted:
    def __init__(self, item: Any) -> None:
        self.item, self.name, self.path = item, item.name, item.path

    def pixel_count(self) -> int:
        return 1 << 30  # it is read alone: the limit holds for all threads

    def read(self) -> Frame:
        with no_more_files():
            frame: Frame = self.item.read()
        return frame


class ExhaustedSink:
    """A sink that cannot open the file of one photo."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, run: RunInfo) -> None:
        self.path = run.folder / "entities.json"

    def write(self, frame: Frame, entities: EntityMap) -> None:
        if frame.name == self.name:
            with no_more_files():
                write_bytes(self.path, b"{}")

    def close(self, summary: Mapping[str, Any]) -> None:
        pass


@pytest.mark.parametrize("writes", [False, True])
def test_files_run_out_at_one_photo(photos: Path, tmp_path: Path, writes: bool) -> None:
    """The run stops: the next photos would fail for the same reason, and none of them is at fault."""
    source = PhotoFolder(photos) if writes else Exhausted(photos)
    sinks = [LabelMaps(), ExhaustedSink("2.png" if writes else "")]
    out = tmp_path / "out"
    summary = segment_source(source, FakeSegmenter(), sinks, out)
    assert (summary.exit_code, summary.done, summary.failed, summary.left) == (2, 1, 0, 2)
    assert summary.error.startswith(SENTENCE)
    assert not (out / "errors.jsonl").exists()
    sinks = [LabelMaps(), ExhaustedSink("")]
    again = segment_source(PhotoFolder(photos), FakeSegmenter(), sinks, out, resume=True)
    assert (again.exit_code, again.done, again.done_before) == (0, 2, 1)
