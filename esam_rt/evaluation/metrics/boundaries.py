"""Boundaries of segmentations, and the matching of their pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from skimage.morphology import thin

_thin: Callable[..., Any] = thin
TOLERANCE = 0.0075  # share of the photo's diagonal, as in the BSDS500 benchmark


def boundary(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return boundary pixels: those that differ from their right, lower or lower right neighbor, thinned.

    Args:
        labels: Label map [H, W].

    Returns:
        bool [H, W], 8-connected lines one pixel wide.
    """
    padded = np.pad(labels, ((0, 1), (0, 1)), "edge")
    differs = np.zeros(labels.shape, bool)
    for neighbor in (padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]):
        differs |= labels != neighbor
    return np.asarray(_thin(differs), np.bool_)


def match_boundaries(
    a: NDArray[np.bool_], b: NDArray[np.bool_], max_distance_px: float | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pair as many pixels of two boundaries as possible. Each pixel has at most one partner.

    The matching is exact: no other matching has more pairs. The matching of BSDS500 also minimizes the sum of
    distances. This changes the choice of pixels, not their number.

    Args:
        a: Boundary bool [H, W].
        b: Boundary bool [H, W].
        max_distance_px: Largest distance of partners in pixels; by default ``TOLERANCE`` of the diagonal.

    Returns:
        Pixels of ``a`` and pixels of ``b`` that have a partner, bool [H, W] each.
    """
    height, width = a.shape
    reach = TOLERANCE * math.hypot(height, width) if max_distance_px is None else max_distance_px
    pixels_a, pixels_b = np.flatnonzero(a), np.flatnonzero(b)
    number_b = np.full(a.shape, -1)
    number_b.flat[pixels_b] = np.arange(len(pixels_b))
    step = int(reach)
    padded = np.pad(number_b, step, constant_values=-1)
    y, x = np.divmod(pixels_a, width)
    rows, columns = [], []
    for dy in range(-step, step + 1):
        for dx in range(-step, step + 1):
            if dy * dy + dx * dx <= reach * reach:
                partner = padded[y + step + dy, x + step + dx]
                near = np.flatnonzero(partner >= 0)
                rows.append(near)
                columns.append(partner[near])
    pair_a, pair_b = _most_pairs(np.concatenate(rows), np.concatenate(columns), len(pixels_a), len(pixels_b))
    matched_a, matched_b = np.zeros(a.shape, bool), np.zeros(a.shape, bool)
    matched_a.flat[pixels_a[pair_a]] = True
    matched_b.flat[pixels_b[pair_b]] = True
    return matched_a, matched_b


def _most_pairs(
    row: NDArray[np.int64], column: NDArray[np.int64], count_a: int, count_b: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Largest matching among the edges (row, column), found as the largest flow from a source to a sink.

    For one pair of BSDS500's maps, SciPy's bipartite matching took 0.1 to 30 s, its flow 0.01 s.
    """
    source, sink = count_a + count_b, count_a + count_b + 1
    tails = np.concatenate([row, np.full(count_a, source), count_a + np.arange(count_b)]).astype(np.int32)
    heads = np.concatenate([count_a + column, np.arange(count_a), np.full(count_b, sink)]).astype(np.int32)
    graph = csr_array((np.ones(len(tails), np.int32), (tails, heads)), shape=(sink + 1, sink + 1))
    flow = maximum_flow(graph, source, sink, method="dinic").flow.tocoo()
    used = (flow.data > 0) & (flow.row < count_a)
    return flow.row[used], flow.col[used] - count_a
