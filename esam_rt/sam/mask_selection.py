"""Sorts the masks of each prompt by area and filters them (E-SAM eq. 1)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import Level, MaskSet
from esam_rt.sam.geometry import Geometry
from esam_rt.settings import Filters

_log = logging.getLogger("esam_rt")


def _select(out: dict[str, NDArray[Any]], geometry: Geometry, filters: Filters, levels: tuple[Level, ...]) -> MaskSet:
    """Sort the three masks of each prompt by area (eq. 1), filter, cut the bits to the working grid."""
    score, area, stability = out["predicted_iou"], out["area"], out["stability_score"]
    rank = np.argsort(np.argsort(-area, axis=1, kind="stable"), axis=1)
    best = np.arange(3) == np.argmax(score, axis=1)[:, None]
    keep = (score >= filters.score_min) & (stability >= filters.stability_min) & (area >= filters.min_area)
    keep &= np.isin(rank, levels) | best
    row, output = np.nonzero(keep)
    h, w = geometry.grid_hw
    words = -(-w // 64)
    bits = out["bits"][row, output, :h, : words * 8]  # the copy that outlives the batch
    missing = words * 8 - bits.shape[2]
    if missing > 0:
        bits = np.pad(bits, ((0, 0), (0, 0), (0, missing)))
    return MaskSet(
        bits=np.ascontiguousarray(bits).view(np.uint64),
        width=w,
        area=area[row, output].astype(np.int32),
        box_xyxy=out["box_xyxy"][row, output].astype(np.int16),
        predicted_iou=score[row, output].astype(np.float32),
        stability_score=stability[row, output].astype(np.float32),
        prompt_index=out["prompt_index"][row].astype(np.int32),
        level=rank[row, output].astype(np.uint8),
        mask_index=output.astype(np.uint8),
        is_best=best[row, output],
    )
