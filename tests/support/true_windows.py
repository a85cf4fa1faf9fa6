"""Scenes whose truth is known, and what a faultless model sees of them in a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from esam_rt.entity_map import EntityMap
from esam_rt.method.windows import Window
from esam_rt.stages import Stage


def cells_around(photo_hw: tuple[int, int], count: int, rng: np.random.Generator, wraps: bool) -> NDArray[np.int64]:
    """Return a label map [H, W]: the pixels nearest to each of `count` random points, some of them 0."""
    h, w = photo_hw
    y, x = np.mgrid[:h, :w]
    row, column = rng.uniform(0, 1, (count, 2)).T * [[h], [w]]
    across = np.abs(x[..., None] - column)
    across = np.minimum(across, w - across) if wraps else across
    labels = ((y[..., None] - row) ** 2 + across**2).argmin(axis=2) + 1
    labels[labels <= count // 8] = 0
    return np.asarray(labels, np.int64)


def in_window(labels: NDArray[np.integer], window: Window) -> NDArray[np.integer]:
    """Cut a window out of a label map. Columns go on at the left edge."""
    return labels[window.y0 : window.y0 + window.height].take(
        np.arange(window.x0, window.x0 + window.width), axis=1, mode="wrap"
    )


def entities_of(labels: NDArray[np.integer], rng: np.random.Generator) -> EntityMap:
    """Return the connected pieces of a label map as entities, with random scores and so in a random order."""
    pieces = label(np.asarray(labels, np.int64), background=0)
    count = int(pieces.max(initial=0))
    return EntityMap.from_labels(pieces, rng.uniform(0.5, 1, count), np.full(count, Stage.EMR))


def same_partition(found: NDArray[np.integer], truth: NDArray[np.integer]) -> bool:
    """True if two label maps differ only in the names of their labels. 0 stays 0."""
    pairs = np.unique(np.stack([found.ravel(), truth.ravel()]), axis=1)
    zeros = (pairs == 0).any(axis=0)
    return bool((pairs[:, zeros] == 0).all() and all(len(np.unique(row)) == pairs.shape[1] for row in pairs))
