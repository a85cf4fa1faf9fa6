"""Waves: prompts are decoded a few at a time, and the masks found decide what comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.bits import rasterize_union, unpack
from esam_rt.method.prompt_set import PromptSet

Strategy: TypeAlias = Callable[[PromptSet], NDArray[np.int64]]
"""Returns the prompts of the next wave, as indices. It leaves out prompts that are decoded or not worth it. An empty
wave is the end. It depends only on what the set holds, because a deadline may decode a part of a wave."""

# Prompts of a wave under a deadline; each wave is as large as all before it. On six photos of BSDS500 the covering was
# 0.570 after 16 prompts with a first wave of 4, and 0.543 with one of 16.
FIRST_WAVE, LARGEST_WAVE = 4, 128


def all_at_once(prompts: PromptSet) -> NDArray[np.int64]:
    """Take every prompt in one wave (a ``Strategy``).

    Args:
        prompts: The prompts.
    """
    return np.flatnonzero(~prompts.is_decoded)


def decode_waves(prompts: PromptSet, strategy: Strategy) -> None:
    """Decode wave after wave, until the strategy or the time ends.

    Args:
        prompts: The prompts.
        strategy: Chooses each wave.
    """
    while prompts.is_complete and len(wave := strategy(prompts)):
        prompts.ask(wave)


def farthest_first(strategy: Strategy) -> Strategy:
    """Make a strategy for a deadline: waves that grow, each with the prompts that are worth most.

    The first prompts are scattered. Then a prompt is worth more the farther it lies from all masks and from all
    decoded prompts.

    Args:
        strategy: Chooses the prompts that are worth decoding at all.
    """

    def next_wave(prompts: PromptSet) -> NDArray[np.int64]:
        wanted = np.zeros(len(prompts), bool)
        wanted[strategy(prompts)] = True
        candidates = prompts.order[wanted[prompts.order]]
        decoded = int(prompts.is_decoded.sum())
        if decoded == 0:
            return candidates[:FIRST_WAVE]
        distance = depth(_known(prompts), prompts.cells_yx[candidates])
        return candidates[_spread(prompts.cells_yx[candidates], distance, min(decoded, LARGEST_WAVE))]

    return next_wave


def depth(is_known_hw: NDArray[np.bool_], cells_yx: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the distance of points to the nearest known cell, float32 [N], in cells.

    Args:
        is_known_hw: bool [H, W] on the working grid.
        cells_yx: int32 [N, 2], the cell of each point.
    """
    unknown = (~is_known_hw).astype(np.uint8)
    distance = cv2.distanceTransform(unknown, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance[tuple(cells_yx.T)], np.float32)


def _known(prompts: PromptSet) -> NDArray[np.bool_]:
    """The cells of all masks and of all decoded prompts, bool [H, W]."""
    masks = prompts.masks
    known: NDArray[np.bool_] = unpack(rasterize_union(masks.bits, np.arange(len(masks)))[None], masks.width)[0]
    known[tuple(prompts.cells_yx[prompts.is_decoded].T)] = True
    return known


def _spread(cells_yx: NDArray[np.int32], distance: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Take the farthest point again and again; each one taken counts as known. Ties go to the first."""
    taken = []
    left = distance.astype(np.float64)
    for _ in range(min(count, len(left))):
        best = int(left.argmax())
        taken.append(best)
        left = np.minimum(left, np.hypot(*(cells_yx - cells_yx[best]).T))
        left[taken] = -1
    return np.array(taken, np.int64)
