"""EntityMap: the result for one image, non-overlapping entities."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from esam_rt.errors import InputError
from esam_rt.kernels.pieces import count_pieces
from esam_rt.polygons import Polygon, mask_polygons
from esam_rt.stages import Stage
from esam_rt.tracing import Span

if TYPE_CHECKING:
    import supervision

MOST_LABELS = 65_535


@dataclass(frozen=True, eq=False)
class EntityMap:
    """Non-overlapping entities of one image. Entity i has label i + 1; the highest score comes first.

    Attributes:
        labels: uint16 [H, W] at the image's resolution; 0 is no entity.
        score: float32 [N], predicted IoU.
        area: int64 [N], in pixels.
        box_xyxy: int32 [N, 4], in pixels, half-open.
        centroid_xy: float32 [N, 2], in pixels; (0, 0) is the center of the top left pixel.
        stage: uint8 [N], a ``Stage``.
        times_s: Seconds of each stage: encoder, superpixels, decoder, mmg, emr, usr, upsampling, joining.
        spans: Start and end of each stage, for a profile.
        complete: False if a deadline ended the work before all prompts were decoded.
        completed_stages: Modules that had all of their prompts, in order.
        prompts_decoded: Number of prompts that were decoded.
        track_id: int64 [N], the identity of each entity over frames, from ``EntityTracker``. None without a tracker.
        features: float32 [N, C], the mean of the encoder's embedding over each entity. None unless asked for.
    """

    labels: NDArray[np.uint16]
    score: NDArray[np.float32]
    area: NDArray[np.int64]
    box_xyxy: NDArray[np.int32]
    centroid_xy: NDArray[np.float32]
    stage: NDArray[np.uint8]
    times_s: Mapping[str, float] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    complete: bool = True
    completed_stages: tuple[Stage, ...] = ()
    prompts_decoded: int = 0
    track_id: NDArray[np.int64] | None = None
    features: NDArray[np.float32] | None = None

    @classmethod
    def from_labels(
        cls,
        labels: NDArray[np.integer],
        score: NDArray[np.floating],
        stage: NDArray[np.integer],
        times_s: Mapping[str, float] | None = None,
        in_place: bool = False,
    ) -> EntityMap:
        """Measure a label map.

        Empty labels are dropped. The others are renumbered by score, descending; ties by area, then by the old label.

        Args:
            labels: [H, W]; label i + 1 has score[i] and stage[i].
            score: [N].
            stage: [N], a ``Stage``.
            times_s: Seconds of each stage.
            in_place: Renumber ``labels``, which is uint16, and keep it as the map's own array.

        Raises:
            InputError: A label has no score, or more than ``MOST_LABELS`` labels are not empty.
        """
        h, w = labels.shape
        n = len(score)
        area, box, centroid = _measured(labels, n)
        order = np.lexsort((np.arange(n), -area, -np.asarray(score, np.float64)))
        order = order[area[order] > 0]
        if len(order) > MOST_LABELS:
            raise InputError(f"Label map: found {len(order)} entities, expected at most {MOST_LABELS}.")
        renumber = np.zeros(n + 1, np.uint16)
        renumber[order + 1] = np.arange(1, len(order) + 1)
        renumbered = np.asarray(labels, np.uint16) if in_place else np.empty((h, w), np.uint16)
        for y in range(0, h, 64):
            renumbered[y : y + 64] = renumber[labels[y : y + 64]]
        return cls(
            renumbered,
            np.asarray(score, np.float32)[order],
            area[order],
            box[order],
            centroid[order],
            np.asarray(stage, np.uint8)[order],
            dict(times_s or {}),
        )

    def __len__(self) -> int:
        return len(self.score)

    @functools.cached_property
    def pieces(self) -> NDArray[np.int32]:
        """Number of connected pieces of each entity, int32 [N]. Pixels that touch at a corner are connected.

        It is counted at the first use.
        """
        return count_pieces(self.labels, len(self))

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Return the mask of an entity, bool [H, W].

        Args:
            index: Number of the entity, counted from 0.

        Raises:
            IndexError: The number is too large or negative.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"entity {index} of {len(self)}")
        return np.asarray(self.labels == index + 1)

    def masks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the mask of each entity, bool [H, W]."""
        return (self.mask(i) for i in range(len(self)))

    def within(self, valid: NDArray[np.bool_] | None) -> EntityMap:
        """Return the map without pixels that hold no data.

        An entity that loses half of its pixels or more is left out.

        Args:
            valid: bool [H, W], see `Frame`. None returns the map itself.
        """
        if valid is None:
            return self
        labels = np.where(valid, self.labels, 0)
        area, box, centroid = _measured(labels, len(self))
        kept = 2 * area > self.area
        renumber = np.concatenate([[0], np.cumsum(kept) * kept]).astype(np.uint16)
        return replace(
            self,
            labels=renumber[labels],
            score=self.score[kept],
            area=area[kept],
            box_xyxy=box[kept],
            centroid_xy=centroid[kept],
            stage=self.stage[kept],
            track_id=None if self.track_id is None else self.track_id[kept],
            features=None if self.features is None else self.features[kept],
        )

    def polygons(self, tolerance_px: float = 0.0, holes: bool = True) -> list[list[Polygon]]:
        """Return the pieces of each entity as polygons along pixel edges.

        Args:
            tolerance_px: Largest distance of a ring that has fewer points (Douglas-Peucker). 0 gives the exact entity.
                With a tolerance, neighbors may overlap or leave gaps of that width.
            holes: False leaves holes out.

        Returns:
            For each entity, its pieces in pixels of the image; (0, 0) is the top left corner of the top left pixel.
        """
        found = []
        for i, (x0, y0, x1, y1) in enumerate(self.box_xyxy.tolist()):
            pieces = mask_polygons(self.labels[y0:y1, x0:x1] == i + 1, tolerance_px, holes)
            found.append([piece.moved(x0, y0) for piece in pieces])
        return found

    def to_coco(self, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """Return COCO annotations with compressed RLE; bbox (x, y, w, h) and area are in pixels, category_id is 1.

        Beside the score they have ``pieces``, the number of connected pieces, and with identities ``track_id``.

        Args:
            image_id: The image's id.
            first_id: The id of the first annotation.
        """
        out = []
        h, w = self.labels.shape
        for i, (start, end) in enumerate(_column_runs(self.labels, len(self))):
            counts = np.diff(np.stack([start, end], axis=1).ravel(), prepend=0, append=h * w)
            counts = counts[: len(counts) - (counts[-1] == 0)]
            rle = coco_mask.frPyObjects({"size": [h, w], "counts": counts.tolist()}, h, w)
            x0, y0, x1, y1 = (int(v) for v in self.box_xyxy[i])
            out.append(
                {
                    "id": first_id + i,
                    "image_id": image_id,
                    "category_id": 1,
                    "segmentation": {"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode("ascii")},
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(self.area[i]),
                    "iscrowd": 0,
                    "score": round(float(self.score[i]), 6),
                    "pieces": int(self.pieces[i]),
                }
            )
            if self.track_id is not None:
                out[-1]["track_id"] = int(self.track_id[i])
        return out

    def to_panoptic(self) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
        """Return COCO panoptic: RGB uint8 [H, W, 3] with id = R + 256 G + 65536 B, and its segments_info.

        The category_id is 1.
        """
        rgb = np.zeros((*self.labels.shape, 3), np.uint8)
        rgb[..., 0], rgb[..., 1] = self.labels & 255, self.labels >> 8
        segments = []
        for i in range(len(self)):
            x0, y0, x1, y1 = (int(v) for v in self.box_xyxy[i])
            box = [x0, y0, x1 - x0, y1 - y0]
            segments.append({"id": i + 1, "category_id": 1, "iscrowd": 0, "bbox": box, "area": int(self.area[i])})
        return rgb, segments

    def to_supervision(self, compact: bool = True) -> supervision.Detections:
        """Return ``supervision.Detections`` with masks, boxes, confidence and class 0.

        Args:
            compact: Keep masks as ``supervision.CompactMask``, run lengths of each box. False gives an array bool
                [N, H, W]; it takes N bytes a pixel.

        Raises:
            MissingDependencyError: The package ``supervision`` is missing, or older than 0.28.
        """
        from esam_rt.integrations.supervision import detections

        return detections(self, compact)


def _measured(
    labels: NDArray[np.integer], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Measure area [N], box [N, 4] and centroid [N, 2] of the labels from 1 to `count`, as in `EntityMap`.

    Labels without pixels get meaningless numbers. InputError for labels other than 0 to `count`. Runs are summed, 64
    rows at a time, so memory holds a few numbers for each label and never one for each row or column.
    """
    h, w = labels.shape
    sums = np.zeros((3, count + 1))  # pixels, twice x, y; whole numbers below 2^53, so exact
    low, high = np.full((2, count + 1), max(h, w)), np.zeros((2, count + 1), np.int64)  # x and y
    for top in range(0, h, 64):
        strip = labels[top : top + 64]
        begins = np.ones(strip.shape, bool)
        np.not_equal(strip[:, 1:], strip[:, :-1], out=begins[:, 1:])
        start = np.flatnonzero(begins)
        label = strip.ravel()[start].astype(np.intp)
        least, most = label.min(initial=0), label.max(initial=0)
        if least < 0 or most > count:
            found = least if least < 0 else most
            raise InputError(f"Label map: found label {found}, expected 0 to {count}, the number of scores.")
        length = np.diff(start, append=strip.size)
        y, x = np.divmod(start, w)
        y += top
        for total, weights in zip(sums, (length, length * (2 * x + length - 1), length * y), strict=True):
            total += np.bincount(label, weights, count + 1)
        for axis, first, end in ((0, x, x + length), (1, y, y + 1)):
            np.minimum.at(low[axis], label, first)
            np.maximum.at(high[axis], label, end)
    area, twice_x, y_sum = sums[:, 1:]
    box = np.stack([*low, *high], axis=1)[1:].astype(np.int32)
    pixels = np.maximum(area, 1)
    centroid = np.stack([twice_x / 2 / pixels, y_sum / pixels], axis=1).astype(np.float32)
    return area.astype(np.int64), box, centroid


def _column_runs(labels: NDArray[np.uint16], count: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield start and end of the runs of each label from 1 to `count`; pixels count column by column, as in COCO."""
    h, w = labels.shape
    starts, owners, last = [np.zeros(0, np.intp)], [np.zeros(0, np.uint16)], -1
    for x in range(0, w, 64):  # transposing the whole map would double the memory
        pixels = np.ascontiguousarray(labels[:, x : x + 64].T).ravel()
        begins = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        begins = begins if pixels[0] == last else np.concatenate([[0], begins])
        starts.append(x * h + begins)
        owners.append(pixels[begins])
        last = int(pixels[-1])
    start, owner = np.concatenate(starts), np.concatenate(owners)
    end = np.append(start[1:], h * w)
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(count + 1), side="right")
    for i in range(count):
        runs = order[ends[i] : ends[i + 1]]
        yield start[runs], end[runs]
