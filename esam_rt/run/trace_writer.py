"""TraceWriter: a file of spans in Chrome's trace format."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esam_rt.storage.atomic import atomic_path, output_error
from esam_rt.tracing import Span


class TraceWriter:
    """A context manager that writes spans in Chrome's trace format, for ui.perfetto.dev and chrome://tracing.

    Spans are written as they come, so a long run holds none of them. The file appears when the context ends.

    Args:
        path: The file.

    Raises:
        OutputError: If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named: set[int] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # atomic_path sees what fails here, too
            temporary = stack.enter_context(atomic_path(self._path))
            self._file = stack.enter_context(temporary.open("w", encoding="ascii"))
            process = {"ph": "M", "pid": os.getpid(), "tid": 0, "name": "process_name", "args": {"name": "esam-rt"}}
            self._file.write("[\n" + json.dumps(process))
            self._open = stack.pop_all()
        return self

    def add(self, spans: Iterable[Span], photo: str) -> None:
        """Write the spans of a photo.

        Args:
            spans: The spans.
            photo: Name of the photo.

        Raises:
            OutputError: If they cannot be written.
        """
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
            self._open.callback(self._file.write, "\n]\n")  # the stack runs this first
        self._open.__exit__(t, e, tb)
