"""MMG, multi-level mask generation (E-SAM §3.2): reliable object masks, and parts where the image is dense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.iou import best_iou
from esam_rt.kernels.mask_means import mask_means
from esam_rt.kernels.nms import adaptive_nms, greedy_nms
from esam_rt.masks import Level, MaskSet
from esam_rt.method.superpixels import SuperpixelMap
from esam_rt.settings import Mmg, decided


@dataclass(frozen=True, eq=False)
class MultiLevelMasks:
    """The masks of each level, by score, descending.

    Attributes:
        object: Object masks that match a best mask (Ô of E-SAM eq. 2).
        part: Part masks after adaptive NMS.
        subpart: Sub-part masks after adaptive NMS.
    """

    object: MaskSet
    part: MaskSet
    subpart: MaskSet


def multi_level_masks(coarse: MaskSet, pixels: SuperpixelMap, settings: Mmg) -> MultiLevelMasks:
    """Run MMG.

    Args:
        coarse: High-confidence masks of the coarse grid.
        pixels: Superpixels of the image.
        settings: Numbers of MMG; ``theta_o`` is not ``None``.
    """
    density = pixels.density_map(settings.w_max)
    order = coarse.by_score()

    def at_level(level: Level) -> NDArray[np.intp]:
        # Indices by score: a copy of the masks would take as long as the NMS.
        return np.asarray(order[coarse.level[order] == level], np.intp)

    def dense_nms(index: NDArray[np.intp]) -> MaskSet:
        """Adaptive NMS: the IoU threshold rises to the mean density of the candidate (eq. 4)."""
        threshold = np.zeros(len(coarse))
        threshold[index] = np.maximum(settings.n_t, mask_means(coarse.bits, coarse.box_xyxy, index, density))
        return coarse.select(adaptive_nms(coarse.bits, coarse.box_xyxy, coarse.area, index, threshold))

    theta_o = decided(settings.theta_o, "mmg.theta_o")
    kept = greedy_nms(coarse.bits, coarse.box_xyxy, coarse.area, at_level(Level.OBJECT), theta_o)
    objects = coarse.select(kept)
    match, _ = best_iou(
        objects.bits, objects.box_xyxy, objects.area, coarse.bits, coarse.box_xyxy, coarse.area,
        np.flatnonzero(coarse.is_best),
    )  # fmt: skip
    return MultiLevelMasks(
        object=objects.select(match >= settings.gamma_o),
        part=dense_nms(at_level(Level.PART)),
        subpart=dense_nms(at_level(Level.SUBPART)),
    )


def nms(masks: MaskSet, iou_max: float) -> MaskSet:
    """Remove masks that overlap a better one (greedy NMS on mask IoU).

    Args:
        masks: The masks.
        iou_max: Maximum IoU of two masks that stay.

    Returns:
        The masks that stay, by score, descending.
    """
    return masks.select(greedy_nms(masks.bits, masks.box_xyxy, masks.area, masks.by_score(), iou_max))
