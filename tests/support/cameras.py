"""Sources that a test moves on, frame by frame, and a clock that it sets."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np

from esam_rt.sources import Frame

WAIT_S = 30.0  # for an event that a correct program brings at once


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Camera:
    """A live source. `give` returns when the reader has taken the frame and asks for the next one."""

    length: int | None = None
    is_live = True

    def __init__(self, shape_hw: tuple[int, int] = (20, 30)) -> None:
        self._image = np.zeros((*shape_hw, 3), np.uint8)
        self._frames: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
        self._asked = threading.Semaphore(0)
        self.taken: list[str] = []
        self.closed = False

    def __iter__(self) -> Iterator[Frame]:
        while True:
            self._asked.release()
            given = self._frames.get()
            if given is None:
                return
            if isinstance(given, Exception):
                raise given
            self.taken.append(given)
            yield Frame(self._image, given)

    def wait_until_asked(self) -> None:
        """Wait until the reader asks for a frame."""
        assert self._asked.acquire(timeout=WAIT_S)
        self._asked.release()

    def put(self, given: str | Exception | None) -> None:
        """Hand out a name of a frame, an error, or None for the end, without waiting."""
        self._frames.put(given)

    def give(self, *names: str) -> None:
        """Hand out frames. Return when the reader asks for one more."""
        for name in names:
            assert self._asked.acquire(timeout=WAIT_S)
            self.put(name)
            self.wait_until_asked()

    def end(self) -> None:
        """End the source."""
        self.put(None)

    def close(self) -> None:
        """End the source; a stream calls this."""
        self.closed = True
        self.put(None)
