"""Joins the entities of overlapping windows of a raster over the seams, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import MOST_LABELS
from esam_rt.errors import InputError
from esam_rt.method.joining import overlaps
from esam_rt.method.windows import Rectangle
from esam_rt.rle import dense_mask
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sources.raster import import_rasterio, opened_raster

MOST_IDS = 2**31 - 1
_SAME = np.arange(MOST_LABELS + 1, dtype=np.uint16)
_BLOCK_PX = 512


@dataclass(frozen=True, eq=False)
class IdTable:
    """Entities of a raster. Row i is the entity with id i + 1.

    Attributes:
        score: float64 [K], mean of the parts by area.
        area_px: int64 [K].
    """

    score: NDArray[np.float64]
    area_px: NDArray[np.int64]


@dataclass(frozen=True)
class _Shown:
    """A window that others may overlap: its place, its labels uint16, and the number before its first entity."""

    place: Rectangle
    labels: NDArray[np.uint16]
    before: int


class SeamJoiner:
    """Numbers the entities of windows, and finds those that are one.

    Two entities are one if they look the same (IoU) in what their windows have in common. Two entities of one window
    stay apart, also over a chain of others. Memory holds the labels of the last rows of windows, and a few numbers for
    each entity.

    Args:
        join_iou: IoU from which they are one.
    """

    def __init__(self, join_iou: float) -> None:
        self._iou = join_iou
        self._parent = [0]
        self._windows: list[set[int]] = [set()]  # of each root
        self._area: list[int] = [0]
        self._score_sum: list[float] = [0.0]
        self._shown: list[_Shown] = []
        self._number = 0

    def add(self, place: Rectangle, labels: NDArray[np.uint16], score: NDArray[np.floating], core: Rectangle) -> Any:
        """Add a window. Windows come row by row.

        Args:
            place: Its place in the raster.
            labels: uint16 [H, W].
            score: [N], of each label.
            core: The pixels of the raster that get their ids from this window.

        Returns:
            Provisional ids of the core, int32.

        Raises:
            InputError: There are more ids than a file holds.
        """
        before, count = len(self._parent) - 1, len(score)
        if before + count > MOST_IDS:
            raise InputError(f"Raster: found more than {MOST_IDS} entities in its windows. Make the windows larger.")
        own = labels[core.y0 - place.y0 : core.y1 - place.y0, core.x0 - place.x0 : core.x1 - place.x0]
        area = np.bincount(own.ravel(), minlength=count + 1)[1 : count + 1]
        self._parent += range(before + 1, before + count + 1)
        self._windows += [{self._number} for _ in range(count)]
        self._area += area.tolist()
        self._score_sum += (area * score).tolist()
        window = _Shown(place, labels, before)
        self._shown = [shown for shown in self._shown if shown.place.y1 > place.y0]
        found = [pair for shown in self._shown for pair in self._same(window, shown)]
        for _, one, other in sorted(found, key=lambda pair: (-pair[0], *pair[1:])):
            self._unite(one, other)
        self._shown.append(window)
        self._number += 1
        return np.where(own > 0, own.astype(np.int32) + before, 0)

    def _same(self, window: _Shown, shown: _Shown) -> list[tuple[float, int, int]]:
        """Pairs of a window and an earlier one that look the same: IoU and both provisional ids."""
        common = window.place.common(shown.place)
        if common is None:
            return []
        a, b = (
            one.labels[
                common.y0 - one.place.y0 : common.y1 - one.place.y0, common.x0 - one.place.x0 : common.x1 - one.place.x0
            ]
            for one in (window, shown)
        )
        entity, other, pixels = overlaps(a, b, _SAME)
        iou = pixels / (np.bincount(entity, pixels)[entity] + np.bincount(other, pixels)[other] - pixels)
        same = np.flatnonzero((iou >= self._iou) & (entity > 0) & (other > 0))
        return [(float(iou[i]), int(entity[i]) + window.before, int(other[i]) + shown.before) for i in same]

    def _root(self, one: int) -> int:
        while self._parent[one] != one:
            self._parent[one] = one = self._parent[self._parent[one]]
        return one

    def _unite(self, one: int, other: int) -> None:
        keep, drop = sorted((self._root(one), self._root(other)))
        if keep == drop or not self._windows[keep].isdisjoint(self._windows[drop]):
            return
        self._parent[drop] = keep
        self._windows[keep] |= self._windows[drop]
        self._windows[drop] = set()
        self._area[keep] += self._area[drop]
        self._score_sum[keep] += self._score_sum[drop]

    def result(self) -> tuple[NDArray[np.int32], IdTable]:
        """Return the id of each provisional id, and the entities. Ids count from 1 without gaps, by first window."""
        root = np.array([self._root(one) for one in range(len(self._parent))])
        area, total = np.array(self._area), np.array(self._score_sum)
        is_root = (root == np.arange(len(root))) & (area > 0)
        ids = np.cumsum(is_root).astype(np.int32) * is_root
        return ids[root], IdTable(total[is_root] / area[is_root], area[is_root])


def write_ids(records: Callable[[], Iterable[PhotoRecord]], join_iou: float, file: Path) -> IdTable | None:
    """Join the windows of one raster, and write their ids as a Cloud Optimized GeoTIFF.

    The file has int32, nodata 0, and the coordinate reference system and transform of the raster.

    Args:
        records: Returns the records of the windows, the same ones each time.
        join_iou: See `SeamJoiner`.
        file: File to write. A second file stands beside it meanwhile.

    Returns:
        The entities. None, without a file, if there are no records.

    Raises:
        InputError: The raster is missing, or the records are those of several rasters.
    """
    rasterio = import_rasterio()
    joiner, source, canvas = SeamJoiner(join_iou), "", None
    work = file.with_name(f"{file.name}.work")
    try:
        for record in _row_by_row(records):
            if canvas is None:
                source, canvas = record.path, _canvas(record.path, work)
            if record.path != source:
                raise InputError(f"{record.path}: found windows of a second raster beside {source}. Run one by one.")
            place, core = _places(record)
            ids = joiner.add(place, _labels(record), np.array([one["score"] for one in record.entities]), core)
            canvas.write(ids, 1, window=((core.y0, core.y1), (core.x0, core.x1)))
        if canvas is None:
            return None
        final, table = joiner.result()
        for _, window in canvas.block_windows(1):
            canvas.write(final[canvas.read(1, window=window)], 1, window=window)
        canvas = canvas.close()
        options = {"compress": "DEFLATE", "bigtiff": "IF_SAFER", "overview_resampling": "NEAREST"}
        rasterio.shutil.copy(work, file, driver="COG", **options)
        return table
    except rasterio.errors.RasterioError as e:
        raise OSError(str(e)) from e
    finally:
        if canvas is not None:
            canvas.close()
        work.unlink(missing_ok=True)


def _row_by_row(records: Callable[[], Iterable[PhotoRecord]]) -> Iterable[PhotoRecord]:
    """Return windows in order. Memory holds all records only if a resumed run read some windows late."""
    corners = [record.place["offset_xy"][::-1] for record in records() if record.place is not None]
    if corners == sorted(corners):
        return records()
    return sorted(records(), key=lambda record: record.place["offset_xy"][::-1] if record.place else [])


def _canvas(source: str, work: Path) -> Any:
    """Return an empty raster of int32, open to read and write, with the place of the source on the earth."""
    rasterio = import_rasterio()
    with opened_raster(source) as data:
        where = {"crs": data.crs, "transform": data.transform}
        size = {"width": data.width, "height": data.height}
    layout = {"tiled": True, "blockxsize": _BLOCK_PX, "blockysize": _BLOCK_PX, "sparse_ok": True, "bigtiff": "IF_SAFER"}
    return rasterio.open(work, "w+", driver="GTiff", dtype="int32", count=1, nodata=0, **size, **where, **layout)


def _places(record: PhotoRecord) -> tuple[Rectangle, Rectangle]:
    if record.place is None:
        raise InputError(f"{record.name}: is no window of a raster. Choose another output for photos.")
    x, y = record.place["offset_xy"]
    x0, y0, x1, y1 = record.place["core_xyxy"]
    return Rectangle(y, x, y + record.height, x + record.width), Rectangle(y0, x0, y1, x1)


def _labels(record: PhotoRecord) -> NDArray[np.uint16]:
    labels = np.zeros((record.height, record.width), np.uint16)
    for number, entity in enumerate(record.entities, 1):
        labels[dense_mask(entity["segmentation"])] = number
    return labels
