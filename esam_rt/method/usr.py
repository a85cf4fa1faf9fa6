"""USR, under-segmentation refinement (E-SAM §3.4): prompts where nothing was found, and few masks to fill the gaps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.bits import areas_and_boxes, unpack
from esam_rt.kernels.containment import smallest_holders
from esam_rt.kernels.iou import best_iou
from esam_rt.kernels.set_cover import greedy_cover
from esam_rt.masks import MaskSet
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.superpixels import SuperpixelMap
from esam_rt.sam.geometry import Geometry
from esam_rt.settings import Usr
from esam_rt.stages import Stage


def new_prompts(
    entities: GridEntities, pixels: SuperpixelMap, parts: MaskSet, geometry: Geometry, settings: Usr, min_area: int
) -> NDArray[np.float32]:
    """One prompt for each remaining superpixel (eq. 9), float32 [N, 2], x before y in [0, 1]² of the photo.

    parts: part and sub-part masks after adaptive NMS.
    """
    labels = pixels.labels_hw
    free = ~unpack(entities.covered()[None], entities.width)[0]
    total = np.bincount(labels.ravel(), minlength=len(pixels))
    left = np.bincount(labels[free], minlength=len(pixels))
    remaining = np.flatnonzero((left > settings.outside * total) & (left >= min_area))
    number = np.full(len(pixels), -1, np.int32)
    number[remaining] = np.arange(len(remaining))
    regions = np.where(free, number[labels], np.int32(-1))
    held_by = smallest_holders(parts.bits, parts.box_xyxy, parts.area, regions, settings.inside * left[remaining])
    cells = np.flatnonzero(regions >= 0)
    cells = cells[np.argsort(regions.ravel()[cells], kind="stable")]
    of_region = np.split(cells, np.cumsum(left[remaining])[:-1])
    alone = (np.divmod(of_region[k], labels.shape[1]) for k in np.flatnonzero(held_by < 0))
    holders = (np.nonzero(unpack(parts.bits[m : m + 1], parts.width)[0]) for m in np.unique(held_by[held_by >= 0]))
    points = {_inner_point(y, x) for some in (alone, holders) for y, x in some}
    return geometry.from_cell_xy(np.array(sorted(points), np.float64).reshape(-1, 2))


def _inner_point(y: NDArray[np.integer], x: NDArray[np.integer]) -> tuple[float, float]:
    """Centroid x, y of a region, given by its cells row by row; its innermost cell where the centroid lies outside."""
    cx, cy = float(x.sum() / len(x)), float(y.sum() / len(y))
    if ((x == round(cx)) & (y == round(cy))).any():
        return cx, cy
    x0, y0 = x.min() - 1, y.min() - 1
    region = np.zeros((y.max() - y0 + 2, x.max() - x0 + 2), np.uint8)
    region[y - y0, x - x0] = 1
    depth = cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    iy, ix = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(ix + x0), float(iy + y0)


def fill_gaps(entities: GridEntities, additional: MaskSet, settings: Usr, min_area: int) -> GridEntities:
    """The final entities (eq. 10): a greedy cover of the gaps by the additional masks.

    What a mask newly covers joins the entity that it overlaps with an IoU above rho, or becomes an entity of its own.
    """
    h, w = entities.bits.shape[1], entities.width
    covered = entities.covered()
    gain_min = max(min_area, int(np.ceil(settings.gain_min * h * w)))
    a, n = additional, len(entities)
    taken = greedy_cover(a.bits, a.box_xyxy, a.area, a.predicted_iou, covered, gain_min)
    room = n + len(taken)
    bits = np.zeros((room, *covered.shape), np.uint64)
    area, box = np.zeros(room, np.int32), np.zeros((room, 4), np.int16)
    bits[:n], area[:n], box[:n] = entities.bits, entities.area, entities.box_xyxy
    score, stage = list(entities.score), list(entities.stage)
    sources = list(entities.sources)
    for i in taken:
        one = slice(i, i + 1)
        overlap, joined = best_iou(a.bits[one], a.box_xyxy[one], a.area[one], bits[:n], box[:n], area[:n])
        new = a.bits[i] & ~covered
        covered |= new
        source = (int(a.prompt_index[i]), int(a.mask_index[i]))
        if overlap[0] > settings.rho:
            k = joined[0]
            sources[k] += (source,)
        else:
            k, n = n, n + 1
            score.append(a.predicted_iou[i])
            stage.append(np.uint8(Stage.USR))
            sources.append((source,))
        bits[k] |= new
        area[k : k + 1], box[k : k + 1] = areas_and_boxes(bits[k : k + 1])
    return GridEntities.of(bits[:n], w, np.array(score, np.float32), np.array(stage, np.uint8), sources, min_area)
