"""EntityTracker: gives entities of successive frames identities that stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.errors import SettingsError
from esam_rt.kernels.label_pairs import label_pairs
from esam_rt.rounding import ceil_div
from esam_rt.tracking.assignment import assign
from esam_rt.tracking.scene_cut import SceneCut
from esam_rt.tracking.track import Track, TrackState

SIDE_PX = 640  # maps are compared at this size
# Cosine of the features of one entity in two frames of CamVid: 0.97 and more for 99 of 100 that overlap by half. For
# entities apart, 0.51 is the median. Entities that flicker (IoU 0.1 to 0.3) have 0.84 and more.
COSINE_MIN = 0.8
# With features, an IoU this many times lower is enough: 0.61 new identities a frame of CamVid in place of 1.05.
IOU_RELIEF = 6.0
# An entity that shrinks below this share of its usual area may be hidden in part, and its larger mask is kept. In the
# synthetic scene of benchmarks/live_streams.py, IDF1 is 0.01 higher.
WHOLE = 0.8
SHRINKING = 0.95  # of the usual area, in a frame
MISS_WEIGHT = 0.95  # for each missed frame: an identity that was just seen comes first
VELOCITY_WEIGHT = 0.5  # of the newest movement; the rest is the mean of the earlier ones


class EntityTracker:
    """Gives entities of successive frames identities that stay. One tracker follows one camera.

    An entity gets the identity of an earlier entity at the same place. Places are compared by the IoU of the masks. The
    earlier mask is tried where it was, and moved on at its last speed. If the maps have ``features``, these must agree
    too, and a lower IoU is enough. All pairs are chosen together, so that their sum is highest (Hungarian assignment).
    The motion of the camera is not estimated. On real maps, the best assignment of entities keeps 0.02 more of the
    pixels at most (benchmarks/live_streams.py). The maps lose the others.

    Args:
        max_missed: An identity may be missing in this many frames and come back. 0 to 1000.
        iou_min: Lowest IoU of two masks of one identity, above 0, at most 1.

    Raises:
        SettingsError: A number is out of range.

    Example:
        >>> tracker = EntityTracker()  # doctest: +SKIP
        >>> for frame in frames:  # doctest: +SKIP
        ...     entities = tracker.update(segmenter(frame, features=True), frame)
        ...     print(entities.track_id)
    """

    def __init__(self, max_missed: int = 5, iou_min: float = 0.3) -> None:
        if not 0 <= max_missed <= 1000:
            raise SettingsError(f"max_missed: found {max_missed}, expected 0 to 1000.")
        if not 0 < iou_min <= 1:
            raise SettingsError(f"iou_min: found {iou_min}, expected a number above 0, at most 1.")
        self.max_missed, self.iou_min = max_missed, iou_min
        self._next_id = 1
        self._frame = -1
        self._known: list[_Known] = []
        self._removed: list[_Known] = []
        self._scene_cut, self._begins_anew = SceneCut(), False

    @property
    def tracks(self) -> tuple[Track, ...]:
        """The identities after the last frame, by number. A removed one is told once, after the frame without it."""
        told = [self._told(known, TrackState.REMOVED) for known in self._removed]
        told += [self._told(known) for known in self._known]
        return tuple(sorted(told, key=lambda track: track.track_id))

    def reset(self) -> None:
        """Remove all identities, as a scene cut does. The next frame gets new numbers."""
        self._removed, self._known = self._known, []

    def watch(self, image_hwc_rgb: Any) -> bool:
        """Look at the next frame before its entities are known. After a scene cut, all of them will be new.

        Args:
            image_hwc_rgb: The frame, uint8 [H, W, 3], on the host.

        Returns:
            True if the frame begins a new scene.
        """
        is_cut = self._scene_cut.is_cut(image_hwc_rgb)
        self._begins_anew |= is_cut  # the entities of the frame before may have failed to come
        return is_cut

    def update(self, entities: EntityMap, image_hwc_rgb: Any = None) -> EntityMap:
        """Give the entities of the next frame their identities.

        Args:
            entities: The entities. All maps should have ``features``, or none.
            image_hwc_rgb: The frame, uint8 [H, W, 3], on the host. With it, a scene cut is noticed at once. Leave it
                out after ``watch``.

        Returns:
            The same map with ``track_id``.
        """
        self._frame += 1
        now = _View.of(entities, self._frame)
        if image_hwc_rgb is not None:
            self.watch(image_hwc_rgb)
        self._removed = []
        if self._begins_anew or any(known.last.view.labels.shape != now.labels.shape for known in self._known[:1]):
            self.reset()
        self._begins_anew = False
        track_id = np.zeros(len(entities), np.int64)
        for row, index in zip(*self._matched(now), strict=True):
            self._known[row].meet(_Place(now, index), self.max_missed)
            track_id[index] = self._known[row].track_id
        for index in np.flatnonzero(track_id == 0).tolist():
            self._known.append(_Known(self._next_id, _Place(now, index)))
            track_id[index] = self._next_id
            self._next_id += 1
        self._removed += [known for known in self._known if self._missed(known) > self.max_missed]
        self._known = [known for known in self._known if self._missed(known) <= self.max_missed]
        return replace(entities, track_id=track_id)

    def _matched(self, now: _View) -> tuple[list[int], list[int]]:
        """Return identities and entities that belong together, as indices."""
        found = list(self._pairs(now))
        if not found:
            return [], []
        row, index, iou = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((-iou, index, row))  # the better place of a pair that occurs twice comes first
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(row[order]) != 0) | (np.diff(index[order]) != 0)
        row, index, iou = row[order][first], index[order][first], iou[order][first]
        cosine = np.array([self._known[r].cosine(_Place(now, i)) for r, i in zip(row, index, strict=True)])
        has_features = ~np.isnan(cosine)
        missed = np.array([self._missed(self._known[r]) - 1 for r in row])
        fits = iou >= np.where(has_features, self.iou_min / IOU_RELIEF, self.iou_min)
        fits &= ~has_features | (cosine >= COSINE_MIN)
        score = iou * np.where(has_features, cosine, 1) * MISS_WEIGHT**missed
        rows, indices = assign(row[fits], index[fits], score[fits])
        return rows.tolist(), indices.tolist()

    def _pairs(self, now: _View) -> Iterator[tuple[NDArray[Any], ...]]:
        """Yield identities and entities that overlap, and their IoU, at rest and in motion."""
        places: dict[_View, list[tuple[int, int]]] = defaultdict(list)
        for row, known in enumerate(self._known):
            for place in {known.last, known.whole}:
                places[place.view].append((row, place.index))
        for view, here in places.items():
            row_of, moved_yx = np.full(len(view.area) + 1, -1), np.zeros((len(view.area) + 1, 2), np.int32)
            for row, index in here:
                row_of[index + 1] = row
                moved_yx[index + 1] = np.round(self._known[row].velocity_yx * (now.frame - view.frame))
            yield self._meetings(view, now, row_of, np.zeros_like(moved_yx))
            moves = moved_yx.any(axis=1)
            if moves.any():
                yield self._meetings(view, now, np.where(moves, row_of, -1), moved_yx)

    @staticmethod
    def _meetings(
        view: _View, now: _View, row_of: NDArray[np.int64], offset_yx: NDArray[np.int32]
    ) -> tuple[NDArray[Any], ...]:
        """Identities and entities that overlap, and their IoU. Only the box of the identities is looked at."""
        boxes = view.box_xyxy[row_of[1:] >= 0]
        (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        labels, pixels = label_pairs(view.labels[y0:y1, x0:x1], now.labels, offset_yx + np.array([y0, x0]))
        is_known = row_of[labels[:, 0]] >= 0
        (before, after), pixels = labels[is_known].T, pixels[is_known]
        union = view.area[before - 1] + now.area[after - 1] - pixels
        return row_of[before], after - 1, pixels / union

    def _missed(self, known: _Known) -> int:
        return self._frame - known.last.view.frame

    def _told(self, known: _Known, state: TrackState | None = None) -> Track:
        missed = self._missed(known)
        if state is None:
            state = TrackState.LOST if missed else TrackState.TRACKED if known.born < self._frame else TrackState.NEW
        return Track(known.track_id, state, self._frame - known.born, missed, None if missed else known.last.index)


@dataclass(frozen=True, eq=False)
class _View:
    """A frame as the tracker keeps it: reduced labels, and area, boxes and centers in reduced pixels."""

    frame: int
    labels: NDArray[np.uint16]
    area: NDArray[np.int64]
    box_xyxy: NDArray[np.int64]
    center_yx: NDArray[np.float64]
    features: NDArray[np.float32] | None

    @classmethod
    def of(cls, entities: EntityMap, frame: int) -> _View:
        step = max(1, ceil_div(max(entities.labels.shape), SIDE_PX))
        labels = entities.labels[::step, ::step].copy()  # the map itself belongs to the caller
        area = np.bincount(labels.ravel(), minlength=len(entities) + 1)[1:]
        features = entities.features
        if features is not None:
            features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        box = entities.box_xyxy.astype(np.int64)
        box = np.concatenate([box[:, :2] // step, -(-box[:, 2:] // step)], axis=1)
        return cls(frame, labels, area, box, entities.centroid_xy[:, ::-1] / step, features)


@dataclass(frozen=True)
class _Place:
    """An entity of a frame."""

    view: _View
    index: int

    @property
    def area(self) -> float:
        """Area in reduced pixels."""
        return float(self.view.area[self.index])

    @property
    def center_yx(self) -> NDArray[np.float64]:
        """Center in reduced pixels."""
        return np.asarray(self.view.center_yx[self.index])


class _Known:
    """An identity: its last place, and the last one in which it was whole. Something may hide a part of it since."""

    def __init__(self, track_id: int, place: _Place) -> None:
        self.track_id, self.born = track_id, place.view.frame
        self.last = self.whole = place
        self.velocity_yx = np.zeros(2)  # reduced pixels a frame
        self._has_moved = False
        self._usual_area = place.area

    def meet(self, place: _Place, max_hidden: int) -> None:
        """Take a place in a new frame."""
        frames = place.view.frame - self.whole.view.frame
        self._usual_area = max(place.area, SHRINKING * self._usual_area)
        if place.area >= WHOLE * self._usual_area or frames > max_hidden:
            moved = (place.center_yx - self.whole.center_yx) / frames
            weight = VELOCITY_WEIGHT if self._has_moved else 1
            self.velocity_yx, self._has_moved = weight * moved + (1 - weight) * self.velocity_yx, True
            self.whole = place
        self.last = place

    def cosine(self, place: _Place) -> float:
        """Cosine of its features and those of a place; NaN without features."""
        before, now = self.last.view.features, place.view.features
        return float("nan") if before is None or now is None else float(before[self.last.index] @ now[place.index])
