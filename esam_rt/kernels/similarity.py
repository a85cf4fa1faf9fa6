"""Which superpixels look alike, and how strongly that ties the masks that hold them (E-SAM §3.3)."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import array, kernel

BLOCK = 1024  # rows of similarities at once: a photo of noise may have tens of thousands of superpixels


def most_similar(features: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Top_k of each row of float32 [K, C] (E-SAM eq. 7): as `top_k` of `cosine_similarity`, with BLOCK rows at once."""
    unit = _unit(features)
    parts = [top_k(unit[i : i + BLOCK] @ unit.T, k, i) for i in range(0, len(unit), BLOCK)]
    return np.concatenate([np.empty((0, max(min(k, len(unit) - 1), 0)), np.int32), *parts])


def cosine_similarity(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """S_C: float32 [K, K] in -1…1 of features float32 [K, C]; a vector of zeros is similar to none, 0."""
    unit = _unit(features)
    similarity: NDArray[np.float32] = unit @ unit.T
    return similarity


def _unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows scaled to length 1; zeros stay zeros."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(features, length, out=np.zeros_like(features), where=length > 0)
    return unit


def top_k(similarity: NDArray[np.float32], k: int, first: int = 0) -> NDArray[np.int32]:
    """The k most similar others: int32 [B, min(k, K - 1)] of the rows first…first + B of all similarities [K, K].

    Descending, the lower index first among equals, never the row itself. similarity: float32 [B, K].
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
    """S_M of pairs [P, 2] of `count` masks, both ways: float32 [P, 2] (E-SAM eq. 7). The first is how many of the Top_k
    of a centroid in the first mask lie in the second, on average over those centroids; 0 where none lies in the first.

    top: int32 [K, k], as of `top_k`; owner: int [K], the mask that holds each centroid, -1 for none.
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
    """Masks that touch, sides or corners of cells: int64 [P, 2], the lower index first, ascending.

    labels_hw: int [H, W], 0 for none, i + 1 for mask i.
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
