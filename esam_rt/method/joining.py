"""Joins the entities of windows of one photo into one map without overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import MOST_LABELS, EntityMap
from esam_rt.errors import InputError
from esam_rt.method.cleanup import clean_up
from esam_rt.method.windows import Rectangle, Window
from esam_rt.rounding import ceil_div
from esam_rt.settings import Cleanup, Tiles

STRIP_ROWS = 64  # rows that are worked on at once: temporaries stay small
CELLS = 256  # cells of SAM's mask grid along a side
Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]
"""Label of the window, label of the map, and the pixels that have both."""


@dataclass(frozen=True)
class _View:
    """A rectangle of the photo that a window has shown."""

    window: int
    place: Rectangle


@dataclass
class _Group:
    """Entities of windows that are one entity of the photo.

    ``windows`` are those that have shown it, ``is_cut`` is true if each of them showed only a part, and ``stage`` is
    that of the member with the most pixels, ``largest``. Sums are over the members.
    """

    windows: set[int]
    is_cut: bool
    stage: int
    largest: int
    area_sum: int
    score_sum: float

    def take(self, other: _Group) -> None:
        """Add the members of another group."""
        self.windows |= other.windows
        self.is_cut &= other.is_cut
        if other.largest > self.largest:
            self.largest, self.stage = other.largest, other.stage
        self.area_sum += other.area_sum
        self.score_sum += other.score_sum


class _Seen:
    """The entities of a window while they are added. ``group`` [N + 1] is the group of each label, 0 without one."""

    def __init__(self, window: int, found: EntityMap, cut: NDArray[np.bool_]) -> None:
        self.window, self.found, self.cut = window, found, cut
        self.group = np.zeros(len(found) + 1, np.uint16)

    def as_group(self, label: int) -> _Group:
        """Return a group of one entity."""
        area = int(self.found.area[label - 1])
        score = float(self.found.score[label - 1])
        return _Group(
            {self.window}, bool(self.cut[label - 1]), int(self.found.stage[label - 1]), area, area, score * area
        )


class EntityJoiner:
    """A map of a photo that grows window by window, beginning with the whole photo.

    An entity of a window joins the group of the map that looks the same if only pixels count that both have seen. Two
    entities of one window never join, because the window has told them apart. An entity without a group becomes a new
    group if the map has a gap there, or if it is small and whole. Otherwise it is left out: large things are seen best
    by the window that shows most of them.

    Args:
        photo_hw: Height and width of the photo, in pixels.
        settings: Numbers of the tiles.
        wraps: The left and the right edge of the photo are one, as in a panorama.
    """

    def __init__(self, photo_hw: tuple[int, int], settings: Tiles, wraps: bool = False) -> None:
        self._settings, self._wraps, self._hw = settings, wraps, photo_hw
        self._labels = np.zeros(photo_hw, np.uint16)
        self._root = np.zeros(1, np.uint16)  # the group that each label of the map has joined; 0 is no entity
        self._groups: dict[int, _Group] = {}
        self._views: list[_View] = []
        self._windows = 0
        self._shown_side_px = max(photo_hw)  # of the smallest window

    def add(self, window: Window, found: EntityMap) -> None:
        """Add the entities of a window.

        Args:
            window: The window.
            found: Its entities.

        Raises:
            InputError: The photo has more entities than a label map can hold.
        """
        seen = _Seen(self._windows, found, self._is_cut(window, found))
        self._shown_side_px = min(self._shown_side_px, max(window.height, window.width))
        first = 0
        for place in window.parts(self._hw[1]):
            columns = place.x1 - place.x0
            self._add_part(seen, place, found.labels[:, first : first + columns])
            self._views.append(_View(self._windows, place))
            first += columns
        self._windows += 1

    def result(self, cleanup: Cleanup | None = None) -> EntityMap:
        """Return the map. A group has the mean score of its members by area, and the stage of the largest one.

        A group that only one tile shows, and shows cut, is left out: it would end with the tile.

        Args:
            cleanup: Smallest sizes of pieces and gaps in a window. Windows that differ leave specks along their sides.
        """
        score, stage = np.zeros(len(self._root) - 1), np.zeros(len(self._root) - 1, np.uint8)
        for root, group in self._groups.items():
            score[root - 1], stage[root - 1] = group.score_sum / group.area_sum, group.stage
            if group.is_cut and len(group.windows) == 1 and 0 not in group.windows:
                self._root[self._root == root] = 0
        for rows in _strips(len(self._labels)):
            self._labels[rows] = self._root[self._labels[rows]]
        if cleanup is not None:
            clean_up(self._labels, cleanup, shown_side_px=self._shown_side_px, wraps=self._wraps)
        return EntityMap.from_labels(self._labels, score, stage, in_place=True)

    def _is_cut(self, window: Window, found: EntityMap) -> NDArray[np.bool_]:
        """Find the entities that may go on beyond the window: bool [N]."""
        h, w = self._hw
        margin = ceil_div(max(window.height, window.width), CELLS)
        x0, y0, x1, y1 = found.box_xyxy.T
        inside = (x0 < margin) & (self._wraps or window.x0 > 0)
        inside |= (x1 > window.width - margin) & (self._wraps or window.x0 + window.width < w)
        inside |= (y0 < margin) & (window.y0 > 0)
        inside |= (y1 > window.height - margin) & (window.y0 + window.height < h)
        return np.asarray(inside)

    def _add_part(self, seen: _Seen, place: Rectangle, labels: NDArray[np.uint16]) -> None:
        for _, entity, root, window in self._candidates(seen, place, labels):
            self._join(seen, entity, int(self._root[root]), same=window == seen.window)
        pairs = overlaps(labels, self._of(place), self._root)
        self._begin_groups(seen, pairs)
        self._paint(seen, place, labels, pairs)

    def _candidates(
        self, seen: _Seen, place: Rectangle, labels: NDArray[np.uint16]
    ) -> list[tuple[float, int, int, int]]:
        """Pairs that look the same: IoU, entity, group, window that has seen the group. The best comes first."""
        found = []
        for view in self._views:
            common = place.common(view.place)
            if common is None:
                continue
            members = [root for root, group in self._groups.items() if view.window in group.windows]
            of_window = np.where(np.isin(self._root, members), self._root, 0)
            rows = slice(common.y0 - place.y0, common.y1 - place.y0)
            columns = slice(common.x0 - place.x0, common.x1 - place.x0)
            entity, root, pixels = overlaps(labels[rows, columns], self._of(common), of_window)
            own, other = np.bincount(entity, pixels), np.bincount(root, pixels)
            iou = pixels / (own[entity] + other[root] - pixels)
            same = (iou >= self._settings.join_iou) & (entity > 0) & (root > 0)
            found += [(iou[i], int(entity[i]), int(root[i]), view.window) for i in np.flatnonzero(same)]
        return sorted(found, key=lambda pair: (-pair[0], *pair[1:]))

    def _join(self, seen: _Seen, entity: int, root: int, same: bool) -> None:
        """Put an entity of the window, and the group that it has, into a group. `same`: this window has seen it too."""
        own, group = int(seen.group[entity]), self._groups[root]
        windows = self._groups[own].windows if own else {seen.window}
        if own == root or (windows & group.windows) - ({seen.window} if same else set()):
            return
        if own == 0:
            seen.group[entity] = root
            group.take(seen.as_group(entity))
            return
        keep, drop = min(own, root), max(own, root)
        self._groups[keep].take(self._groups.pop(drop))
        self._root[self._root == drop] = keep
        seen.group = self._root[seen.group]

    def _begin_groups(self, seen: _Seen, pairs: Pairs) -> None:
        """Make groups of entities that have none."""
        entity, label, pixels = pairs
        own = np.bincount(entity, pixels, len(seen.group))
        covered = np.bincount(entity, pixels * (label > 0), len(seen.group))
        small = self._settings.small * self._hw[0] * self._hw[1]
        for i in np.flatnonzero((seen.group[1:] == 0) & (own[1:] > 0)) + 1:
            fits = not seen.cut[i - 1] and seen.found.area[i - 1] <= small
            if covered[i] >= 0.5 * own[i] and not fits:
                continue
            root = len(self._root)
            if root > MOST_LABELS:
                raise InputError(
                    f"Photo: its windows have more than {MOST_LABELS} entities, the most that a label map holds. "
                    "Raise tiles.side_px or filters.min_area."
                )
            self._root = np.append(self._root, np.uint16(root))
            self._groups[root] = seen.as_group(int(i))
            seen.group[i] = root

    def _paint(self, seen: _Seen, place: Rectangle, labels: NDArray[np.uint16], pairs: Pairs) -> None:
        """Draw the window's entities. Pixels that the map has already change only if the entity has priority."""
        shown = set(seen.group[np.unique(labels)].tolist())
        keeps = [
            (int(entity) << 16) | int(root)
            for entity, root in zip(*pairs[:2], strict=True)
            if root > 0 and root not in shown and self._has_priority(int(root), seen, int(entity))
        ]
        canvas = self._of(place)
        for rows in _strips(len(labels)):
            new, old = seen.group[labels[rows]], self._root[canvas[rows]]
            changes = (new > 0) & (new != old)
            at = np.nonzero(changes & (old > 0))
            keys = labels[rows][at].astype(np.int64) << 16 | old[at]
            changes[at] = ~np.isin(keys, keeps)
            canvas[rows][changes] = new[changes]

    def _has_priority(self, root: int, seen: _Seen, entity: int) -> bool:
        """A group that the window does not show stays over an entity if it is whole or smaller."""
        group = self._groups[root]
        if seen.group[entity] == 0 or group.is_cut != seen.cut[entity - 1]:
            return not group.is_cut
        return group.largest <= int(seen.found.area[entity - 1])

    def _of(self, place: Rectangle) -> NDArray[np.uint16]:
        return self._labels[place.y0 : place.y1, place.x0 : place.x1]


def _strips(rows: int) -> Iterator[slice]:
    return (slice(y, y + STRIP_ROWS) for y in range(0, rows, STRIP_ROWS))


def overlaps(labels: NDArray[np.uint16], others: NDArray[np.uint16], renumber: NDArray[np.uint16]) -> Pairs:
    """Count the pixels of each pair of labels that occurs, also with 0.

    Runs of pixels are summed, so memory holds a number for each run of a strip.

    Args:
        labels: Labels uint16 [H, W].
        others: Labels uint16 [H, W].
        renumber: uint16 [K], the label to take for each of ``others``.
    """
    keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for rows in _strips(len(labels)):
        key = (labels[rows].astype(np.int64) << 16 | renumber[others[rows]]).ravel()
        start = np.flatnonzero(np.diff(key, prepend=-1))
        unique, index = np.unique(key[start], return_inverse=True)
        keys.append(unique)
        counts.append(np.bincount(index, np.diff(start, append=len(key))).astype(np.int64))
    unique, index = np.unique(np.concatenate(keys), return_inverse=True)
    pixels = np.bincount(index, np.concatenate(counts), len(unique)).astype(np.int64)
    return (unique >> 16).astype(np.intp), (unique & 0xFFFF).astype(np.intp), pixels
