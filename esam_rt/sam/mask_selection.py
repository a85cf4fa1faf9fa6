"""Sorts the masks of each prompt by area and filters them (E-SAM eq. 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import WORD_CELLS, Level, MaskSet
from esam_rt.rounding import ceil_div
from esam_rt.sam.geometry import CELLS_PER_BYTE, Geometry
from esam_rt.sam.models import ModelSpec
from esam_rt.settings import Filters

MASKS_PER_PROMPT = 3
WORD_BYTES = WORD_CELLS // CELLS_PER_BYTE


@dataclass(frozen=True)
class Thresholds:
    """Filters with all numbers known.

    Attributes:
        score_min: Minimum predicted IoU.
        stability_min: Minimum stability score.
        stability_offset: Offset of the stability score, in logits.
        min_area: Minimum area, in cells.
    """

    score_min: float
    stability_min: float
    stability_offset: float
    min_area: int

    @classmethod
    def of(cls, filters: Filters | None, model: ModelSpec) -> Thresholds:
        """Return the thresholds of filters.

        Args:
            filters: The model's own numbers replace ``None`` in it. ``None`` keeps every mask.
            model: The model.
        """
        if filters is None:
            return cls(-math.inf, -math.inf, model.stability_offset, 0)
        return cls(
            model.score_min if filters.score_min is None else filters.score_min,
            model.stability_min if filters.stability_min is None else filters.stability_min,
            model.stability_offset if filters.stability_offset is None else filters.stability_offset,
            filters.min_area,
        )


def select_masks(
    outputs: dict[str, NDArray[Any]], geometry: Geometry, thresholds: Thresholds, levels: tuple[Level, ...]
) -> MaskSet:
    """Sort the three masks of each prompt by area (E-SAM eq. 1), filter them and cut their bits to the working grid.

    Args:
        outputs: The mask head's outputs for P prompts, with ``predicted_iou`` [P, 3] and ``prompt_index`` [P].
        geometry: The place of the image in the input.
        thresholds: Filters.
        levels: Levels to keep. The best mask of each prompt is kept too.
    """
    score, area, stability = outputs["predicted_iou"], outputs["area"], outputs["stability_score"]
    level = np.argsort(np.argsort(-area, axis=1, kind="stable"), axis=1)
    is_best = np.arange(MASKS_PER_PROMPT) == np.argmax(score, axis=1)[:, None]
    passes = (score >= thresholds.score_min) & (stability >= thresholds.stability_min) & (area >= thresholds.min_area)
    prompt, mask_index = np.nonzero(passes & (np.isin(level, levels) | is_best))
    h, w = geometry.grid_hw
    row_bytes = ceil_div(w, WORD_CELLS) * WORD_BYTES
    bits = outputs["bits"][prompt, mask_index, :h, :row_bytes]  # the copy that outlives the batch
    missing = row_bytes - bits.shape[2]
    if missing > 0:
        bits = np.pad(bits, ((0, 0), (0, 0), (0, missing)))
    return MaskSet(
        bits=np.ascontiguousarray(bits).view(np.uint64),
        width=w,
        area=area[prompt, mask_index].astype(np.int32),
        box_xyxy=outputs["box_xyxy"][prompt, mask_index].astype(np.int16),
        predicted_iou=score[prompt, mask_index].astype(np.float32),
        stability_score=stability[prompt, mask_index].astype(np.float32),
        prompt_index=outputs["prompt_index"][prompt].astype(np.int32),
        level=level[prompt, mask_index].astype(np.uint8),
        mask_index=mask_index.astype(np.uint8),
        is_best=is_best[prompt, mask_index],
    )
