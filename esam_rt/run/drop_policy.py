"""Waiting frames of a source: which is kept, which is dropped, and when the source may give the next one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

from esam_rt.sources.frame import Frame

Policy: TypeAlias = Literal["every", "latest"]
POLICIES: tuple[Policy, ...] = ("every", "latest")


@dataclass(frozen=True, eq=False)
class Arrival:
    """A frame that a source gave, or an error that it raised.

    Attributes:
        frame: The frame, or None if there is none.
        error: The error, or None.
        name: Name of the frame. Empty if the source failed.
        received_s: Time of arrival by the stream's clock.
    """

    frame: Frame | None
    error: Exception | None
    name: str
    received_s: float


class WaitingFrames:
    """The frames of one source that wait for their turn, oldest first.

    Args:
        policy: ``every`` keeps each frame, ``latest`` only the newest one. Errors are always kept.
        max_in_flight: With ``every``, frames that wait or are in work at most.
    """

    def __init__(self, policy: Policy, max_in_flight: int) -> None:
        self._keeps_every, self._max_in_flight = policy == "every", max_in_flight
        self._waiting: deque[Arrival] = deque()
        self._in_work = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """True if the source may give its next frame."""
        return not self._keeps_every or len(self._waiting) + self._in_work < self._max_in_flight

    def add(self, arrival: Arrival) -> bool:
        """Take what a source gave.

        Args:
            arrival: A frame or an error.

        Returns:
            True if an older frame was dropped for it.
        """
        old = [a for a in self._waiting if a.error is None] if not self._keeps_every and arrival.error is None else []
        for dropped in old:
            self._waiting.remove(dropped)
        self._waiting.append(arrival)
        return bool(old)

    @property
    def oldest(self) -> Arrival:
        """The one that ``take`` returns."""
        return self._waiting[0]

    def take(self) -> Arrival:
        """Return the oldest, to work on it. Call ``finish`` afterwards."""
        self._in_work += 1
        return self._waiting.popleft()

    def finish(self) -> None:
        """Note that the work on what ``take`` returned has ended."""
        self._in_work -= 1

    def clear(self) -> int:
        """Drop all that wait.

        Returns:
            Their number.
        """
        count = len(self._waiting)
        self._waiting.clear()
        return count
