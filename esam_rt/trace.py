"""What took how long: spans of time by name and thread, and the file that shows them."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esam_rt.storage.atomic import atomic_path, output_error


@dataclass(frozen=True)
class Span:
    """start_ns, end_ns: of `time.perf_counter_ns`. thread, thread_name: where it ran."""

    name: str
    start_ns: int
    end_ns: int
    thread: int
    thread_name: str


class Trace:
    """Spans in the order in which they ended. Threads may record at once."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Record what runs inside."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            end, thread = time.perf_counter_ns(), threading.current_thread()
            self.spans.append(Span(name, start, end, thread.native_id or 0, thread.name))

    def seconds(self) -> dict[str, float]:
        """Seconds by name, each without the spans that ran inside it on its thread."""
        own_ns: dict[str, int] = defaultdict(int)
        ended: dict[int, list[Span]] = defaultdict(list)  # by thread, those not yet found to lie inside another
        for span in self.spans:
            earlier, inside_ns = ended[span.thread], 0
            while earlier and earlier[-1].start_ns >= span.start_ns:
                inner = earlier.pop()
                inside_ns += inner.end_ns - inner.start_ns
            own_ns[span.name] += span.end_ns - span.start_ns - inside_ns
            earlier.append(span)
        return {name: ns / 1e9 for name, ns in own_ns.items()}


class Profile:
    """A file of spans in Chrome's trace format, as an array of events: ui.perfetto.dev and chrome://tracing open it.

    Written as it goes, so that a long run holds none of it. A context manager; the file appears at its end.
    Errors: OutputError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named: set[int] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # atomic_path is told of what fails here too
            temporary = stack.enter_context(atomic_path(self._path))
            self._file = stack.enter_context(temporary.open("w", encoding="ascii"))
            process = {"ph": "M", "pid": os.getpid(), "tid": 0, "name": "process_name", "args": {"name": "esam-rt"}}
            self._file.write("[\n" + json.dumps(process))
            self._open = stack.pop_all()
        return self

    def add(self, spans: Iterable[Span], photo: str) -> None:
        """Write the spans of a photo."""
        for span in spans:
            where = {"pid": os.getpid(), "tid": span.thread}
            if span.thread not in self._named:
                self._named.add(span.thread)
                self._write({"ph": "M", **where, "name": "thread_name", "args": {"name": span.thread_name}})
            times_us = {"ts": span.start_ns / 1000, "dur": (span.end_ns - span.start_ns) / 1000}
            self._write({"ph": "X", **where, "name": span.name, **times_us, "args": {"photo": photo}})

    def _write(self, event: dict[str, Any]) -> None:
        try:
            self._file.write(",\n" + json.dumps(event))
        except OSError as e:
            raise output_error(self._path, e) from e

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        if t is None:
            self._open.callback(self._file.write, "\n]\n")  # first of all that the stack does
        self._open.__exit__(t, e, tb)
