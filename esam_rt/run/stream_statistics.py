"""Counts and times of a stream, by source."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

REMEMBERED = 1000  # newest times of a source: memory does not grow with the frames


@dataclass(frozen=True)
class SourceStatistics:
    """Counts and times of one source. At the end, ``received`` is the sum of the other counts.

    Attributes:
        received: Frames that the source gave, and errors that it raised.
        done: Frames with entities.
        failed: Frames with an error in place of entities, and errors of the source.
        dropped: Frames without a result, by reason: ``newer`` (a newer frame came first), ``removed`` (the source was
            removed) or ``closed`` (the stream was closed).
        waiting: Frames that wait or are segmented now.
        latency_p50_s: Median seconds from the begin of segmentation to the result, over the newest 1,000 results. NaN
            without a result. If the frame was prepared beside another one, it begins there.
        latency_p95_s: 95th percentile of the same.
        age_p50_s: Median seconds from the reception of the frame to the result.
        age_p95_s: 95th percentile of the same.
    """

    received: int
    done: int
    failed: int
    dropped: Mapping[str, int]
    waiting: int
    latency_p50_s: float
    latency_p95_s: float
    age_p50_s: float
    age_p95_s: float


class Recorder:
    """Counts what becomes of the frames of one source."""

    def __init__(self) -> None:
        self.received = self.done = self.failed = 0
        self.dropped: Counter[str] = Counter()
        self._latency_s: deque[float] = deque(maxlen=REMEMBERED)
        self._age_s: deque[float] = deque(maxlen=REMEMBERED)

    def finish(self, latency_s: float, age_s: float, is_error: bool) -> None:
        """Count a result.

        Args:
            latency_s: Seconds since its segmentation began.
            age_s: Seconds since the frame was received.
            is_error: The frame failed.
        """
        self.failed += is_error
        self.done += not is_error
        self._latency_s.append(latency_s)
        self._age_s.append(age_s)

    def statistics(self) -> SourceStatistics:
        """Return the figures up to now."""
        gone = self.done + self.failed + self.dropped.total()
        percentiles = [
            float(np.percentile(times, percent)) if times else float("nan")
            for times in (self._latency_s, self._age_s)
            for percent in (50, 95)
        ]
        return SourceStatistics(
            self.received, self.done, self.failed, dict(self.dropped), self.received - gone, *percentiles
        )
