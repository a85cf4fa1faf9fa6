"""Frames at the pace of a camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from esam_rt.errors import SettingsError
from esam_rt.sources.frame import Frame


class Paced:
    """Gives frames at a fixed rate, as a camera would. It plays a folder or a file in real time.

    A frame that is read too late comes at once, and the next ones keep their times.

    Args:
        source: Any frames.
        rate_hz: Frames a second, above 0.
        clock: Returns seconds.
        wait: Waits some seconds. Default: until they have passed or the source is closed.

    Raises:
        SettingsError: The rate is not above 0.

    Example:
        >>> stream = segmenter.stream(Paced(PhotoFolder("frames"), 10), policy="latest")  # doctest: +SKIP
    """

    is_live = True
    length: int | None = None

    def __init__(
        self,
        source: Iterable[Frame],
        rate_hz: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        if not 0 < rate_hz < float("inf"):
            raise SettingsError(f"Rate of frames: found {rate_hz}, expected a number above 0.")
        self._source, self._period_s, self._clock = source, 1 / rate_hz, clock
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait

    def __iter__(self) -> Iterator[Frame]:
        """Return the frames, each at its time.

        Raises:
            InputError: If the source fails.
        """
        begin_s = self._clock()
        for number, frame in enumerate(self._source):
            early_s = begin_s + number * self._period_s - self._clock()
            if early_s > 0:
                self._wait(early_s)
            if self._closed.is_set():
                return
            yield frame

    def close(self) -> None:
        """End the source. No further frame comes."""
        self._closed.set()
