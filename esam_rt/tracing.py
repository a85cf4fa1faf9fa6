"""Spans of time by name and thread."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A stretch of time.

    Attributes:
        name: The stage.
        start_ns: Start, as ``time.perf_counter_ns`` counts.
        end_ns: End, likewise.
        thread: Native number of the thread.
        thread_name: Name of the thread.
    """

    name: str
    start_ns: int
    end_ns: int
    thread: int
    thread_name: str


class Trace:
    """Spans in the order in which they ended. Several threads may record at once."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Record the time of the block.

        Args:
            name: The stage.
        """
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            end, thread = time.perf_counter_ns(), threading.current_thread()
            self.spans.append(Span(name, start, end, thread.native_id or 0, thread.name))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each name, without the spans that ran inside it on the same thread."""
        own_ns: dict[str, int] = defaultdict(int)
        ended: dict[int, list[Span]] = defaultdict(list)  # by thread: spans that may still lie inside another one
        for span in self.spans:
            earlier, inside_ns = ended[span.thread], 0
            while earlier and earlier[-1].start_ns >= span.start_ns:
                inner = earlier.pop()
                inside_ns += inner.end_ns - inner.start_ns
            own_ns[span.name] += span.end_ns - span.start_ns - inside_ns
            earlier.append(span)
        return {name: ns / 1e9 for name, ns in own_ns.items()}
