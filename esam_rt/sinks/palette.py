"""Colors of entities."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.rounding import ceil_div

_ADJACENCY_SIDE = 1024  # colors are chosen on a map of this size: smaller contacts do not show on a screen
_GAP = 3  # neighbors may be this many pixels of that map apart


def entity_colors(result: EntityMap) -> NDArray[np.uint8]:
    """Choose a color for each entity, clearly different for entities that touch or nearly touch.

    Each entity takes the least used of the colors that differ enough from those of its neighbors, also for people who
    do not see red and green. An entity with an identity has the color of its ``track_id`` in each frame, and neighbors
    may then have one color.

    Args:
        result: Entities of one photo.

    Returns:
        uint8 RGB [N + 1, 3], row i for label i. Row 0 is black.
    """
    if result.track_id is not None:
        return np.concatenate([np.zeros((1, 3), np.uint8), HUES[result.track_id % len(HUES)]])
    chosen = np.full(len(result) + 1, -1)
    used = np.zeros(len(HUES))
    neighbors = _neighbors(result.labels, len(result))
    for label in range(1, len(result) + 1):
        taken = chosen[neighbors[label]]
        difference = _DIFFERENCE[:, taken[taken >= 0]].min(axis=1, initial=np.inf)
        enough = difference >= min(_CLEAR, difference.max())
        chosen[label] = np.where(enough, used, np.inf).argmin()
        used[chosen[label]] += 1
    colors: NDArray[np.uint8] = HUES[chosen]
    colors[0] = 0
    return colors


def _neighbors(labels: NDArray[np.uint16], count: int) -> list[NDArray[np.intp]]:
    """For each label from 0 to ``count``, find the labels at most ``_GAP`` sampled pixels away."""
    step = ceil_div(max(labels.shape), _ADJACENCY_SIDE)
    sampled = labels[::step, ::step]
    pairs = np.unique(np.concatenate([_row_pairs(rows, count + 1) for rows in (sampled, sampled.T)]))
    one, other = np.divmod(pairs, count + 1)
    both = np.unique(np.concatenate([one * (count + 1) + other, other * (count + 1) + one]))
    one, other = np.divmod(both, count + 1)
    return np.split(other.astype(np.intp), np.searchsorted(one, np.arange(1, count + 1)))


def _row_pairs(labels: NDArray[np.uint16], base: int) -> NDArray[np.int64]:
    """Pairs a · base + b of labels at most ``_GAP + 1`` columns apart. Such a pair has a border between its pixels."""
    labels = np.ascontiguousarray(labels)
    y, x = np.divmod(np.flatnonzero(labels[:, 1:] != labels[:, :-1]), max(labels.shape[1] - 1, 1))
    found = [np.zeros(0, np.int64)]
    for shift in range(1, _GAP + 2):
        for back in range(shift):
            row, left = y[x >= back], x[x >= back] - back
            inside = left + shift < labels.shape[1]
            row, left = row[inside], left[inside]
            a, b = labels[row, left].astype(np.int64), labels[row, left + shift].astype(np.int64)
            keys = (a * base + b)[(a != b) & (a > 0) & (b > 0)]
            found.append(np.flatnonzero(np.bincount(keys)) if base < 1000 else np.unique(keys))
    return np.concatenate(found)


def _as_seen(rgb: NDArray[np.floating], vision: NDArray[np.floating]) -> NDArray[np.float32]:
    """CIELAB colors [K, 3] of sRGB colors [K, 3] from 0 to 1, as people with that vision see them."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ vision.T
    linear = np.clip(linear, 0, 1)
    seen = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2Lab)[0], np.float32)


def _differences(seen: list[NDArray[np.float32]], index: int) -> NDArray[np.float32]:
    """Distances float32 [K] from one color to all, for the vision that sees the least of them.

    Distances for normal vision are reduced, since most people have it and expect more.

    Args:
        seen: CIELAB colors [K, 3] for each of ``_VISIONS``.
        index: The color.
    """
    distance = np.array([np.linalg.norm(lab - lab[index], axis=1) for lab in seen], np.float32)
    distance[0] *= _NORMAL
    least: NDArray[np.float32] = distance.min(axis=0)
    return least


def _hues() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return colors, uint8 RGB [K, 3], and the differences between them [K, K].

    The first color is a blue. Each other one is the one of many that differs most from those before it. None is so
    saturated, dark or bright that it hides a photo or a white line.
    """
    shades = itertools.product(np.arange(0, 360, 15), np.arange(0.4, 0.85, 0.1), np.arange(0.4, 1.05, 0.1))
    hsv = np.array([(210, 0.8, 0.9), *shades], np.float32)
    rgb = np.round(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] * 255).astype(np.uint8)
    lightness = _as_seen(rgb / 255, np.eye(3))[:, 0]
    rgb = rgb[(lightness > _DARKEST) & (lightness < _BRIGHTEST)]
    seen = [_as_seen(rgb / 255, np.array(vision)) for vision in _VISIONS]
    chosen, differences = [0], [_differences(seen, 0)]
    while len(chosen) < _COLORS:
        chosen.append(int(np.min(differences, axis=0).argmax()))
        differences.append(_differences(seen, chosen[-1]))
    return rgb[chosen], np.array(differences)[:, chosen]


# Linear RGB as people with normal vision see it, and people without the cones for red, green and blue (Machado,
# Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color Vision Deficiency, 2009, severity 1).
_VISIONS = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
)
_NORMAL = 0.55  # 30 units of the difference are 55 of CIELAB for normal vision
_DARKEST, _BRIGHTEST = 38, 82  # CIELAB lightness
_COLORS = 18
_CLEAR = 30.0  # CIELAB units: each color has at least seven others that differ so much for everybody
HUES, _DIFFERENCE = _hues()
