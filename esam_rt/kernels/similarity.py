"""Similarity of superpixels, and of the masks that contain them (E-SAM section 3.3, eq. 7).

``S_C(i, j)`` is the cosine of the features of superpixels i and j. ``Top_k(i)`` holds the k superpixels most similar to
i. ``S_M(a, b)`` is the mean, over the superpixels i in mask a, of the number of ``Top_k(i)`` that lie in mask b.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import array, kernel

BLOCK = 1024  # rows of similarities at a time: a noisy photo may have tens of thousands of superpixels
ONE_THREAD = 1 << 18  # OpenBLAS takes one thread for a product of so many multiplications


def most_similar(features: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Find the superpixels with the highest cosine similarity to each superpixel (``Top_k`` of E-SAM eq. 7).

    A vector of zeros has similarity 0 with all others.

    Args:
        features: float32 [K, C].
        k: Number of superpixels to find.

    Returns:
        int32 [K, min(k, K - 1)]; see ``top_k``.
    """
    unit = _unit(features)
    if 0 < len(unit) <= BLOCK:
        return top_k(_products(unit), k)
    parts = [top_k(unit[i : i + BLOCK] @ unit.T, k, i) for i in range(0, len(unit), BLOCK)]
    return np.concatenate([np.empty((0, max(min(k, len(unit) - 1), 0)), np.int32), *parts])


def _products(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scalar products [K, K] of rows [K, C], on this thread alone: a photo has a few hundred superpixels.

    BLAS would wake all cores for it, and they wait in loops: 400 rows took 6 ms of CPU time in place of 1 ms, and 22 ms
    in place of 1 ms beside other programs.
    """
    side = max(1, math.isqrt(ONE_THREAD // max(1, rows.shape[1])))
    columns = np.ascontiguousarray(rows.T)
    found = np.empty((len(rows), len(rows)), np.float32)
    for i in range(0, len(rows), side):
        for j in range(0, i + 1, side):
            part = rows[i : i + side] @ columns[:, j : j + side]
            found[i : i + side, j : j + side], found[j : j + side, i : i + side] = part, part.T
    return found


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows scaled to length 1; zeros stay zeros."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    return unit


def top_k(similarity: NDArray[np.float32], k: int, first: int = 0) -> NDArray[np.int32]:
    """Find the k most similar others for B rows of a similarity matrix.

    Args:
        similarity: Rows ``first`` to ``first + B`` of the matrix, float32 [B, K].
        k: Number of others to find.
        first: Index of the first row in the matrix.

    Returns:
        int32 [B, min(k, K - 1)], descending, the lower index first on ties, never the row itself.
    """
    rows, n = similarity.shape
    top = np.empty((rows, max(min(k, n - 1), 0)), np.int32)
    _top_k(np.ascontiguousarray(similarity, np.float32), first, top)
    return top


@kernel(array(types.float32, 2), types.int64, types.int32[:, ::1])
def _top_k(similarity: NDArray[np.float32], first: int, top: NDArray[np.int32]) -> None:
    n, k = top.shape
    for i in range(n):
        row = similarity[i]
        filled = 0
        for j in range(len(row)):
            if j == first + i or k == 0 or (filled == k and row[j] <= row[top[i, k - 1]]):
                continue
            filled = min(filled + 1, k)
            at = filled - 1
            while at > 0 and row[top[i, at - 1]] < row[j]:
                top[i, at] = top[i, at - 1]
                at -= 1
            top[i, at] = j


def pair_similarity(
    top: NDArray[np.int32], owner: NDArray[np.integer], pairs: NDArray[np.integer], count: int
) -> NDArray[np.float32]:
    """Compute ``S_M(a, b)`` and ``S_M(b, a)`` for pairs of masks (E-SAM eq. 7).

    Args:
        top: Most similar superpixels, int32 [K, k]; see ``top_k``.
        owner: Mask that contains the centroid of each superpixel, int [K]; -1 for no mask.
        pairs: Pairs of masks, int [P, 2].
        count: Number of masks.

    Returns:
        float32 [P, 2]; 0 for a mask without superpixels.
    """
    a = np.repeat(owner.astype(np.int64), top.shape[1])
    b = owner.astype(np.int64)[top.ravel()]
    named, times = np.unique((a * count + b)[(a >= 0) & (b >= 0)], return_counts=True)
    centroids = np.maximum(np.bincount(owner[owner >= 0], minlength=count), 1)
    similarity = np.zeros(pairs.shape, np.float32)
    for way, other in ((0, 1), (1, 0)):
        wanted = pairs[:, way] * np.int64(count) + pairs[:, other]
        found = np.isin(wanted, named)
        similarity[found, way] = times[np.searchsorted(named, wanted[found])] / centroids[pairs[found, way]]
    return similarity


def touching_pairs(labels_hw: NDArray[np.integer]) -> NDArray[np.int64]:
    """Find pairs of masks that touch at sides or corners of cells.

    Args:
        labels_hw: int [H, W], i + 1 for mask i, 0 for no mask.

    Returns:
        int64 [P, 2], the lower index first, in ascending order.
    """
    count = int(labels_hw.max(initial=0)) + 1
    h, w = labels_hw.shape
    met = []
    for down, left, right in ((0, 0, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)):
        a, b = labels_hw[: h - down, left : w - right], labels_hw[down:, right : w - left]
        edge = (a != b) & (a > 0) & (b > 0)
        a, b = a[edge].astype(np.int64), b[edge].astype(np.int64)
        met.append(np.minimum(a, b) * count + np.maximum(a, b))
    return np.stack(np.divmod(np.unique(np.concatenate(met)), count), axis=1) - 1
