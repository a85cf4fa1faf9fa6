"""USR, under-segmentation refinement (E-SAM §3.4): prompts where nothing was found, and few masks to fill the gaps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .entities import Stage
from .grid import GridEntities
from .kernels.bits import areas_and_boxes, pack, unpack
from .kernels.cover import greedy_cover
from .kernels.iou import best_iou, intersections
from .masks import MaskSet
from .sam import Geometry
from .settings import Usr
from .superpixels import SuperpixelMap


def new_prompts(
    entities: GridEntities, pixels: SuperpixelMap, parts: MaskSet, geometry: Geometry, settings: Usr, min_area: int
) -> NDArray[np.float32]:
    """One prompt for each remaining superpixel (eq. 9), float32 [N, 2], x before y in [0, 1]² of the photo.

    parts: part and sub-part masks after adaptive NMS.
    """
    free = ~unpack(entities.covered()[None], entities.width)[0]
    labels = pixels.labels_hw
    total = np.bincount(labels.ravel(), minlength=len(pixels))
    left = np.bincount(labels[free], minlength=len(pixels))
    remaining = np.flatnonzero((left > settings.outside * total) & (left >= min_area))
    regions = [(labels == k) & free for k in remaining]
    bits = pack(np.array(regions, bool).reshape(-1, *labels.shape))
    area, box = areas_and_boxes(bits)
    inside = intersections(bits, box, parts.bits, parts.box_xyxy) >= settings.inside * area[:, None]
    by_area = np.argsort(parts.area, kind="stable")
    part_of = [next(iter(by_area[row[by_area]]), -1) for row in inside]
    points = {
        part: _inner_point(unpack(parts.bits[part : part + 1], parts.width)[0]) for part in set(part_of) if part >= 0
    }
    cells = {points[part] if part >= 0 else _inner_point(region) for part, region in zip(part_of, regions, strict=True)}
    return geometry.from_cell_xy(np.array(sorted(cells), np.float64).reshape(-1, 2))


def _inner_point(region: NDArray[np.bool_]) -> tuple[float, float]:
    """Centroid x, y of a region bool [H, W], in cells; its innermost cell where the centroid lies outside."""
    y, x = np.nonzero(region)
    cx, cy = float(x.mean()), float(y.mean())
    if region[round(cy), round(cx)]:
        return cx, cy
    depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    iy, ix = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(ix - 1), float(iy - 1)


def fill_gaps(entities: GridEntities, additional: MaskSet, settings: Usr, min_area: int) -> GridEntities:
    """The final entities (eq. 10): a greedy cover of the gaps by the additional masks.

    What a mask newly covers joins the entity that it overlaps with an IoU above rho, or becomes an entity of its own.
    """
    h, w = entities.bits.shape[1], entities.width
    covered = entities.covered()
    gain_min = max(min_area, int(np.ceil(settings.gain_min * h * w)))
    a = additional
    taken = greedy_cover(a.bits, a.box_xyxy, a.area, a.score, covered, gain_min)
    bits, score, stage = list(entities.bits), list(entities.score), list(entities.stage)
    sources = list(entities.sources)
    for i in taken:
        now = np.array(bits, np.uint64).reshape(-1, *covered.shape)
        area, box = areas_and_boxes(now)
        overlap, joined = best_iou(a.bits[i : i + 1], a.box_xyxy[i : i + 1], a.area[i : i + 1], now, box, area)
        new = a.bits[i] & ~covered
        covered = covered | new
        source = (int(a.point[i]), int(a.output[i]))
        if overlap[0] > settings.rho:
            bits[joined[0]] = bits[joined[0]] | new
            sources[joined[0]] += (source,)
        else:
            bits.append(new)
            score.append(a.score[i])
            stage.append(np.uint8(Stage.USR))
            sources.append((source,))
    return GridEntities.of(
        np.array(bits, np.uint64).reshape(-1, *covered.shape),
        w,
        np.array(score, np.float32),
        np.array(stage, np.uint8),
        sources,
        min_area,
    )
