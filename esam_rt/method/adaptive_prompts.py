"""Adaptive prompts: points that can hardly add a mask are left out, and coarse prompts vote with the gallery."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.bits import rasterize_union, unpack
from esam_rt.kernels.dedup import leaders
from esam_rt.masks import Level, MaskSet
from esam_rt.method.prompt_set import Decode, PromptSet
from esam_rt.method.time_budget import TimeBudget
from esam_rt.method.waves import Strategy
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import Latitudes, point_grid, scattered
from esam_rt.settings import Adaptive


def outside_agreed_masks(settings: Adaptive) -> Strategy:
    """Make a strategy that leaves out points inside object masks that several prompts agree on.

    One more prompt there would most likely give the same mask again. All other points stay, so holes and places without
    masks are decoded as densely as by the whole grid.

    Args:
        settings: Numbers of adaptive prompts.
    """

    def next_wave(prompts: PromptSet) -> NDArray[np.int64]:
        is_left_out = agreed_cells(prompts.masks, settings)[tuple(prompts.cells_yx.T)] | prompts.is_decoded
        return np.asarray(prompts.order[~is_left_out[prompts.order]])

    return next_wave


def agreed_cells(masks: MaskSet, settings: Adaptive) -> NDArray[np.bool_]:
    """Return the cells inside object masks that at least ``settings.agree`` prompts agree on.

    Masks join the best mask with which they have an IoU of at least ``settings.agree_iou``.

    Args:
        masks: High-confidence masks.
        settings: Numbers of adaptive prompts.

    Returns:
        bool [H, W] on the working grid.
    """
    m, order = masks, masks.by_score()
    objects = order[m.level[order] == Level.OBJECT]
    leader = leaders(m.bits, m.box_xyxy, m.area, objects, settings.agree_iou)
    prompts = np.bincount(leader[leader >= 0], minlength=len(m))
    agreed = rasterize_union(m.bits, np.flatnonzero(prompts >= settings.agree))
    return np.asarray(unpack(agreed[None], m.width)[0])


def in_waves(strategy: Strategy, size: int) -> Strategy:
    """Limit the waves of a strategy, so that it sees masks before it chooses more.

    Args:
        strategy: Chooses the prompts.
        size: Most prompts of a wave.
    """
    return lambda prompts: strategy(prompts)[:size]


def shared_gallery(
    coarse: PromptSet,
    side: int,
    geometry: Geometry,
    decode: Decode,
    budget: TimeBudget,
    latitudes: Latitudes | None = None,
) -> PromptSet:
    """Make a gallery of the coarse prompts that are decoded, with their masks, and of the fine grid.

    The coarse prompts come first. A vote asks for fine prompts only if too few coarse ones lie in its overlap or pair.

    Args:
        coarse: The prompts of the coarse grid.
        side: Points per side of the fine grid.
        geometry: The place of the image in the model's input.
        decode: Returns object masks and best masks of points float32 [N, 2], numbered from 0.
        budget: The time for decoding.
        latitudes: Latitudes of the upper and the lower edge, if the image is a part of a panorama.
    """
    decoded = coarse.points_norm_xy[coarse.order[coarse.is_decoded[coarse.order]]]
    fine = point_grid(side, latitudes)[scattered(side, latitudes)]
    is_new = ~np.isin(fine.view(np.complex64), decoded.view(np.complex64))[:, 0]
    gallery = PromptSet(np.concatenate([decoded, fine[is_new]]), geometry, decode, budget)
    gallery.take_over(coarse)
    masks = gallery.masks
    gallery.masks = masks.select((masks.level == Level.OBJECT) | masks.is_best)
    return gallery
