"""MMG, multi-level mask generation (E-SAM §3.2): reliable object masks, and parts where the photo is dense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernels.iou import best_iou
from .kernels.nms import adaptive_nms, greedy_nms
from .kernels.regions import mask_means
from .masks import Level, MaskSet
from .settings import Mmg
from .superpixels import SuperpixelMap


@dataclass(frozen=True, eq=False)
class MultiLevelMasks:
    """Ô of eq. 2, and the part and sub-part masks after adaptive NMS, each by score, descending."""

    object: MaskSet
    part: MaskSet
    subpart: MaskSet


def multi_level_masks(coarse: MaskSet, pixels: SuperpixelMap, settings: Mmg) -> MultiLevelMasks:
    """MMG on the high-confidence masks of the coarse grid."""
    density = pixels.density_map(settings.w_max)

    def dense_nms(masks: MaskSet) -> MaskSet:
        """Adaptive NMS: the threshold rises to the mean density of the candidate (eq. 4)."""
        mean = mask_means(masks.bits, masks.box_xyxy, density)
        threshold = np.maximum(settings.n_t, mean).astype(np.float64)
        return masks.select(adaptive_nms(masks.bits, masks.box_xyxy, masks.area, masks.by_score(), threshold))

    objects = nms(coarse.at_level(Level.OBJECT), settings.theta_o)
    best = coarse.best_level()
    match, _ = best_iou(objects.bits, objects.box_xyxy, objects.area, best.bits, best.box_xyxy, best.area)
    return MultiLevelMasks(
        object=objects.select(match >= settings.gamma_o),
        part=dense_nms(coarse.at_level(Level.PART)),
        subpart=dense_nms(coarse.at_level(Level.SUBPART)),
    )


def nms(masks: MaskSet, iou_max: float) -> MaskSet:
    """Greedy NMS on mask IoU, by score, descending."""
    return masks.select(greedy_nms(masks.bits, masks.box_xyxy, masks.area, masks.by_score(), iou_max))
