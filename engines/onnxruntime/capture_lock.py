"""The lock that keeps the GPU free of other work while ONNX Runtime captures a CUDA graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class ReadWriteLock:
    """A lock with many shared holders or one exclusive holder. A thread must not acquire it twice."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shared_holders = 0
        self._is_exclusive = False

    @property
    def shared_holders(self) -> int:
        """Number of current shared holders."""
        return self._shared_holders

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other shared holders. Waits for an exclusive holder."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_exclusive)
            self._shared_holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared_holders -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone. Waits for all present holders and keeps new ones out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_exclusive)
            self._is_exclusive = True
            self._changed.wait_for(lambda: not self._shared_holders)
        try:
            yield
        finally:
            with self._changed:
                self._is_exclusive = False
                self._changed.notify_all()


CAPTURE_LOCK = ReadWriteLock()
"""Held shared by all that uses a GPU beside ONNX Runtime, and exclusively by a capture. ONNX Runtime captures in CUDA's
global mode: an allocation by any other thread breaks the graph."""
