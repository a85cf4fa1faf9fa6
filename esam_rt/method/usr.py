"""USR, under-segmentation refinement (E-SAM §3.4): new prompts in gaps, and few masks that fill them."""

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
    """Return one prompt for each superpixel that is mostly uncovered (E-SAM eq. 9).

    If a part mask holds the uncovered region, the prompt is the centroid of the smallest such mask, else of the region.

    Args:
        entities: Entities after EMR.
        pixels: Superpixels of the image.
        parts: Part and sub-part masks after adaptive NMS.
        geometry: The place of the image in the model's input.
        settings: Numbers of USR.
        min_area: Smaller regions get no prompt, in cells.

    Returns:
        float32 [N, 2] in [0, 1] of the image, x before y.
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
    cells_of = np.split(cells, np.cumsum(left[remaining])[:-1])
    free_regions = (np.divmod(cells_of[k], labels.shape[1]) for k in np.flatnonzero(held_by < 0))
    holders = (np.nonzero(unpack(parts.bits[m : m + 1], parts.width)[0]) for m in np.unique(held_by[held_by >= 0]))
    points = {_inner_point(y, x) for some in (free_regions, holders) for y, x in some}
    return geometry.from_cell_xy(np.array(sorted(points), np.float64).reshape(-1, 2))


def _inner_point(y: NDArray[np.integer], x: NDArray[np.integer]) -> tuple[float, float]:
    """Centroid x, y of a region, or its innermost cell if the centroid lies outside."""
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
    """Fill the gaps greedily with additional masks (E-SAM eq. 10).

    The newly covered cells join the entity that the mask overlaps with an IoU above ``rho``. Without such an entity
    they become a new one.

    Args:
        entities: Entities after EMR.
        additional: Best masks of the new prompts.
        settings: Numbers of USR.
        min_area: Smaller fragments and smaller entities disappear, in cells.
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
