"""Track: an identity, as a tracker tells it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class TrackState(IntEnum):
    """State of an identity after a frame."""

    NEW = 0
    """Seen in this frame for the first time."""
    TRACKED = 1
    """Seen in this frame and before."""
    LOST = 2
    """Not seen in this frame. It may come back."""
    REMOVED = 3
    """Not seen for too long, or the scene has changed. It is told once, and the number is never used again."""


@dataclass(frozen=True)
class Track:
    """An identity after a frame.

    Attributes:
        track_id: Number of the identity, from 1. A tracker never uses a number twice.
        state: Its state.
        age: Frames since the identity was first seen. It is 0 in that frame.
        missed: Frames since it was last seen. It is 0 if the frame shows it.
        index: Number of its entity in the frame, counted from 0. None if the frame does not show it.
    """

    track_id: int
    state: TrackState
    age: int
    missed: int
    index: int | None
