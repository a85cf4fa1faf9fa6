"""Spans of time."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from esam_rt.trace import Span, Trace


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
