"""How well identities stay: pixels that keep theirs, the best that the maps allow, and trackers of boxes."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from esam_rt.entity_map import EntityMap

NO_IDENTITY = -1
BOX_TRACKERS = {"SORT": "SORTTracker", "ByteTrack": "ByteTrackTracker", "OC-SORT": "OCSORTTracker"}


class Identities:
    """Collects the identities of the frames of a camera. A pixel at the same place stands for an identity."""

    def __init__(self) -> None:
        self._last: NDArray[np.int64] | None = None
        self._shares: list[tuple[float, float]] = []
        self._first: set[int] = set()
        self._seen: set[int] = set()
        self._with_identity: list[float] = []

    def add(self, entities: EntityMap, track_id: NDArray[np.integer]) -> None:
        """Add a frame.

        Args:
            entities: Its entities.
            track_id: Their identities, [N]. ``NO_IDENTITY`` is no identity.
        """
        has_one = track_id != NO_IDENTITY
        lone = -2 - 2 * np.arange(len(track_id)) - len(self._shares) % 2  # no number twice in neighboring frames
        pixels = np.concatenate([[0], np.where(has_one, track_id, lone)])[entities.labels]
        if self._last is None:
            self._first = set(track_id.tolist())
        else:
            same, both = self._last == pixels, (self._last != 0) & (pixels != 0)
            self._shares.append((float(same.mean()), float((same & both).sum() / max(both.sum(), 1))))
        self._last = pixels
        self._seen |= set(track_id[has_one].tolist())
        self._with_identity.append(float(has_one.mean()) if len(has_one) else 1.0)

    def figures(self, since: int = 0) -> dict[str, float]:
        """Return the figures.

        Args:
            since: Leave out this many first pairs of frames in the shares of pixels.
        """
        every, both = np.mean(self._shares[since:], axis=0)
        return {
            "pixels_that_keep_their_id": round(float(both), 4),
            "the_same_of_all_pixels": round(float(every), 4),
            "new_ids_a_frame": round(len(self._seen - self._first) / len(self._shares), 3),
            "entities_with_an_id": round(float(np.mean(self._with_identity)), 3),
        }


def best_possible(maps: list[EntityMap]) -> dict[str, float]:
    """Return the shares of pixels that the best matching of entities one to one would keep, from frame to frame.

    Args:
        maps: The entities of successive frames.
    """
    shares = []
    for before, after in itertools.pairwise(maps):
        n, m = len(before) + 1, len(after) + 1
        pairs = np.bincount((before.labels.astype(np.int64) * m + after.labels).ravel(), minlength=n * m).reshape(n, m)
        both = pairs[1:, 1:]
        kept = int(both[linear_sum_assignment(both, maximize=True)].sum())
        shares.append(((kept + pairs[0, 0]) / pairs.sum(), kept / max(both.sum(), 1)))
    every, entities = np.mean(shares, axis=0)
    return {"pixels_that_keep_their_id": round(float(entities), 4), "the_same_of_all_pixels": round(float(every), 4)}


def box_tracker(name: str) -> Callable[[EntityMap], NDArray[np.int64]]:
    """Return a tracker of boxes, as a function of the next frame's entities that returns their identities.

    Each entity may begin an identity at once, whatever its score, and one may be missing for 5 frames, as in
    ``EntityTracker``. All other options are the defaults. The package is ``trackers``.

    Args:
        name: A name of ``BOX_TRACKERS``.
    """
    supervision = importlib.import_module("supervision")
    options: dict[str, Any] = {"minimum_consecutive_frames": 1, "lost_track_buffer": 5}
    options |= {"track_activation_threshold": 0.0} if name != "OC-SORT" else {}
    options |= {"high_conf_det_threshold": 0.0} if name != "SORT" else {}
    tracker = getattr(importlib.import_module("trackers"), BOX_TRACKERS[name])(**options)

    def update(entities: EntityMap) -> NDArray[np.int64]:
        rows = np.arange(len(entities))
        boxes = entities.box_xyxy.astype(np.float32).reshape(-1, 4)
        detections = supervision.Detections(
            boxes, confidence=entities.score, class_id=np.zeros(len(rows), int), data={"row": rows}
        )
        found = tracker.update(detections)
        ids = np.full(len(rows), NO_IDENTITY, np.int64)
        if len(found) and found.tracker_id is not None:
            ids[found.data["row"]] = found.tracker_id
        return ids

    return update
