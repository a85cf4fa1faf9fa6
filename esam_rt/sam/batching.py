"""Batches of prompts: their size, their order and what happens when the device runs out of memory."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from esam_rt.errors import EngineError, OutOfMemoryError

Decoded = TypeVar("Decoded")
Result = TypeVar("Result")
MIN_BATCH = 1  # prompts
AHEAD = 2  # batches in flight, so that the GPU is never idle

_log = logging.getLogger("esam_rt")


class BatchSizer:
    """The number of prompts of one decoder call. It is halved after the device runs out of memory.

    Args:
        size: Prompts of one call at first.

    Attributes:
        size: Prompts of one call now.
    """

    def __init__(self, size: int) -> None:
        self.size = self._first_size = size

    def halve(self, tried: int, limit: int, error: OutOfMemoryError) -> int:
        """Return how many prompts to try next. Warn once if later images get smaller batches too.

        Args:
            tried: Prompts of the call that failed.
            limit: Prompts of a full call at that time. A shorter rest at the end changes nothing for later images.
            error: The error of the device.

        Raises:
            OutOfMemoryError: ``error``, because no smaller batch is possible.
        """
        smaller = tried // 2
        if smaller < MIN_BATCH:
            raise error
        if tried == limit:
            if self.size == self._first_size:
                _log.warning("%s Going on with at most %d prompts a call instead of %d.", error, smaller, limit)
            self.size = min(self.size, smaller)
        return smaller


class BatchRunner:
    """Decodes prompts batch by batch and returns the results in order.

    Args:
        size: Prompts of one call at first.
        one_at_a_time: Threads take turns, so that memory is needed for one call only.
        overlaps: A batch's masks are fetched while the next batch is decoded. This keeps a GPU busy. On two CPU cores
            it gains nothing.

    Attributes:
        sizer: The current batch size.
        turn: Lock for one call on the device; without ``one_at_a_time`` it never waits.
    """

    def __init__(self, size: int, one_at_a_time: bool, overlaps: bool) -> None:
        self.sizer = BatchSizer(size)
        self.turn: AbstractContextManager[object] = threading.Lock() if one_at_a_time else nullcontext()
        self._is_closed = False
        self._fetcher = ThreadPoolExecutor(1, "esam-rt masks") if overlaps and not one_at_a_time else None

    def run(
        self, count: int, decode: Callable[[slice], Decoded], fetch: Callable[[slice, Decoded], Result]
    ) -> list[Result]:
        """Decode prompts 0 to ``count - 1`` in batches.

        If the device runs out of memory, the batch is halved and decoded again.

        Args:
            count: Number of prompts.
            decode: Decodes the prompts of a slice.
            fetch: Makes the result of a slice from what ``decode`` returned.

        Returns:
            The results of the slices, in order.

        Raises:
            OutOfMemoryError: The device has no memory for ``MIN_BATCH`` prompts.
            EngineError: It was closed meanwhile.
        """
        results: list[Result] = []
        waiting: deque[tuple[slice, Future[Result]]] = deque()
        start, size, ahead = 0, self.sizer.size, AHEAD if self._fetcher else 0
        try:
            while start < count or waiting:
                if start < count:
                    part = slice(start, min(start + size, count))
                    try:
                        with self.turn:
                            waiting.append((part, self._fetch(fetch, part, decode(part))))
                    except OutOfMemoryError as e:
                        _wait_for(waiting)  # then their memory is free
                        size = self.sizer.halve(part.stop - part.start, size, e)
                        continue
                    start = part.stop
                while waiting and (len(waiting) > ahead or start == count):
                    part, fetched = waiting[0]
                    try:
                        results.append(fetched.result())
                        waiting.popleft()
                    except OutOfMemoryError as e:
                        _wait_for(waiting)
                        waiting.clear()  # later batches are decoded again, in smaller parts
                        start, size = part.start, self.sizer.halve(part.stop - part.start, size, e)
            return results
        finally:
            _wait_for(waiting)

    def _fetch(self, fetch: Callable[[slice, Decoded], Result], part: slice, decoded: Decoded) -> Future[Result]:
        if self._fetcher is not None:
            try:
                return self._fetcher.submit(fetch, part, decoded)
            except RuntimeError as e:
                if self._is_closed:
                    raise EngineError("Model: used after close().") from e
                raise
        fetched: Future[Result] = Future()
        fetched.set_result(fetch(part, decoded))
        return fetched

    def close(self) -> None:
        """Stop the thread that fetches masks."""
        self._is_closed = True
        if self._fetcher is not None:
            self._fetcher.shutdown()


def _wait_for(waiting: deque[tuple[slice, Future[Result]]]) -> None:
    wait([fetched for _, fetched in waiting])
