"""Colors of entities."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.rounding import ceil_div

_ADJACENCY_SIDE = 1024  # colors are chosen on a map of this size: smaller contacts do not show on a screen
_GAP = 3  # neighbors may be this many pixels of that map apart


def entity_colors(result: EntityMap) -> NDArray[np.uint8]:
    """Choose a color for each entity, clearly different for entities that touch or nearly touch.

    Each entity takes the least used of the hues that differ enough from the colors of its neighbors.

    Args:
        result: Entities of one photo.

    Returns:
        uint8 RGB [N + 1, 3], row i for label i. Row 0 is black.
    """
    chosen = np.full(len(result) + 1, -1)
    used = np.zeros(len(_HUES))
    neighbors = _neighbors(result.labels, len(result))
    for label in range(1, len(result) + 1):
        taken = chosen[neighbors[label]]
        difference = _DIFFERENCE[:, taken[taken >= 0]].min(axis=1, initial=np.inf)
        enough = difference >= min(_CLEAR, difference.max())
        chosen[label] = np.where(enough, used, np.inf).argmin()
        used[chosen[label]] += 1
    colors: NDArray[np.uint8] = _HUES[chosen]
    colors[0] = 0
    return colors


def _neighbors(labels: NDArray[np.uint16], count: int) -> list[NDArray[np.intp]]:
    """For each label from 0 to ``count``, find the labels at most ``_GAP`` sampled pixels away."""
    step = ceil_div(max(labels.shape), _ADJACENCY_SIDE)
    sampled = labels[::step, ::step].astype(np.int64)
    pairs = [np.zeros(0, np.int64)]
    for shift in range(1, _GAP + 2):
        for a, b in ((sampled[:, :-shift], sampled[:, shift:]), (sampled[:-shift], sampled[shift:])):
            border = (a != b) & (a > 0) & (b > 0)
            pairs.append(np.unique(a[border] * (count + 1) + b[border]))
    one, other = np.divmod(np.concatenate(pairs), count + 1)
    both = np.unique(np.concatenate([one * (count + 1) + other, other * (count + 1) + one]))
    one, other = np.divmod(both, count + 1)
    return np.split(other.astype(np.intp), np.searchsorted(one, np.arange(1, count + 1)))


def _hues() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return vivid colors, uint8 RGB [K, 3], and the CIELAB distances between them [K, K]."""
    hue = np.arange(18) * 0.618034 % 1 * 360
    hsv = np.stack([hue, np.tile([0.8, 0.55, 0.95], 6), np.tile([1, 1, 0.8], 6)], axis=1).astype(np.float32)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0]
    difference = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return np.round(rgb[0] * 255).astype(np.uint8), difference.astype(np.float32)


_HUES, _DIFFERENCE = _hues()
_CLEAR = 45.0  # CIELAB units: red and orange are 60 apart, neighboring greens 20
