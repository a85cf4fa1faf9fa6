"""Identities of entities over frames. Each public name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.tracking.entity_tracker import EntityTracker
    from esam_rt.tracking.track import Track, TrackState

__all__ = ["EntityTracker", "Track", "TrackState"]

_HOMES = {
    "EntityTracker": ".entity_tracker",
    "Track": ".track",
    "TrackState": ".track",
}
__getattr__ = lazy_names(__name__, _HOMES)
