"""Baselines beside E-SAM: SAM's own masks (Table 2) and superpixels alone (§4.4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import MOST_LABELS, EntityMap
from esam_rt.errors import SettingsError
from esam_rt.masks import Level, MaskSet
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.mmg import nms
from esam_rt.stages import Stage


def automatic_masks(masks: MaskSet, iou_max: float, min_area: int) -> GridEntities:
    """Run SAM's automatic mask generation: the best mask of each prompt, after NMS.

    Args:
        masks: High-confidence masks of the coarse grid.
        iou_max: Maximum IoU of two masks after NMS.
        min_area: Minimum area of an entity and of a fragment, in cells.
    """
    return GridEntities.by_score(nms(masks.best_level(), iou_max), Stage.AMG, min_area)


def object_masks(masks: MaskSet, iou_max: float, min_area: int) -> GridEntities:
    """Take SAM's object level alone, after NMS (SAM^O of E-SAM Table 2).

    Args:
        masks: High-confidence masks of the coarse grid.
        iou_max: Maximum IoU of two masks after NMS.
        min_area: Minimum area of an entity and of a fragment, in cells.
    """
    return GridEntities.by_score(nms(masks.at_level(Level.OBJECT), iou_max), Stage.SAM_O, min_area)


def region_entities(regions_hw: NDArray[np.int32], orig_hw: tuple[int, int]) -> EntityMap:
    """Make an entity of each superpixel. The score is the superpixel's share of the image.

    Args:
        regions_hw: Superpixels of the reduced image, int32 [h, w], numbered from 0.
        orig_hw: Height and width of the image, in pixels.

    Raises:
        SettingsError: There are more superpixels than labels.
    """
    area = np.bincount(regions_hw.ravel())
    if len(area) > MOST_LABELS:
        raise SettingsError(
            f"Found {len(area)} superpixels, but a label map holds at most {MOST_LABELS}. Raise superpixels.min_size."
        )
    rows, columns = (np.arange(n) * m // n for n, m in zip(orig_hw, regions_hw.shape, strict=True))
    labels = (regions_hw.astype(np.uint16) + np.uint16(1))[rows[:, None], columns]
    stage = np.full(len(area), Stage.SUPERPIXELS)
    return EntityMap.from_labels(labels, area / regions_hw.size, stage, in_place=True)
