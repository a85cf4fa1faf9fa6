"""Spans of time."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esam_rt.errors import OutputError
from esam_rt.run.trace_writer import TraceWriter
from esam_rt.tracing import Span, Trace


def span(name: str, start: int, end: int, thread: int = 1) -> Span:
    return Span(name, start, end, thread, f"thread {thread}")


def test_seconds_leave_out_what_ran_inside() -> None:
    trace = Trace()
    trace.spans = [  # in the order in which they end
        span("decoder", 10, 30),
        span("split", 40, 50),
        span("emr", 5, 60),
        span("decoder", 12, 70, thread=2),
        span("emr", 60, 65),
        span("photo", 0, 100),
    ]
    seconds = {name: round(s * 1e9) for name, s in trace.seconds().items()}
    assert seconds == {"decoder": 20 + 58, "split": 10, "emr": 25 + 5, "photo": 40}


def test_spans_are_recorded_by_thread_even_when_they_fail() -> None:
    trace = Trace()

    def work() -> None:
        with trace.span("outer"), trace.span("inner"):
            time.sleep(0.01)
            raise KeyError

    with ThreadPoolExecutor(2, thread_name_prefix="worker") as pool:
        for future in [pool.submit(work), pool.submit(work)]:
            with pytest.raises(KeyError):
                future.result()
    assert sorted(s.name for s in trace.spans) == ["inner", "inner", "outer", "outer"]
    assert all(s.thread_name.startswith("worker") and s.end_ns - s.start_ns >= 10_000_000 for s in trace.spans)
    assert trace.seconds()["outer"] < trace.seconds()["inner"]


def test_a_profile_is_a_whole_trace_of_all_threads(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    with TraceWriter(path) as trace_file:
        trace_file.add([span("encoder", 1_000, 3_500), span("superpixels", 500, 4_000, thread=2)], "a.jpg")
        trace_file.add([span("encoder", 5_000, 6_000)], 'b "ü".jpg')
        assert not path.exists(), "it appears whole"
    events = json.loads(path.read_text())
    assert {e["pid"] for e in events} == {os.getpid()}
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {1: "thread 1", 2: "thread 2"}
    shown = [(e["name"], e["tid"], e["ts"], e["dur"], e["args"]["photo"]) for e in events if e["ph"] == "X"]
    assert shown == [
        ("encoder", 1, 1.0, 2.5, "a.jpg"),
        ("superpixels", 2, 0.5, 3.5, "a.jpg"),
        ("encoder", 1, 5.0, 1.0, 'b "ü".jpg'),
    ]


def test_a_profile_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    with pytest.raises(KeyError), TraceWriter(path) as trace_file:
        trace_file.add([span("encoder", 0, 1)], "a.jpg")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"profile\.json cannot be written"),
        TraceWriter(tmp_path / "file/profile.json"),
    ):
        pass


def test_a_profile_that_cannot_be_opened_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str, encoding: str) -> io.StringIO:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OutputError, match=r"profile\.json cannot be written: no permission"):
        TraceWriter(tmp_path / "profile.json").__enter__()


def test_a_profile_that_cannot_be_begun_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = Full()

    def open_full(path: Path, mode: str, encoding: str) -> io.StringIO:
        path.touch()
        return file

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(OutputError, match=r"profile\.json cannot be written: the disk or quota is full"):
        TraceWriter(tmp_path / "profile.json").__enter__()
    assert file.closed
    assert list(tmp_path.iterdir()) == []
