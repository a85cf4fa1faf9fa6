"""Splits masks that overlap into disjoint ones (E-SAM eq. 5 and 6)."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.iou import box_overlap, overlap
from esam_rt.kernels.jit import AREAS, BITS, BOXES, INDEX, kernel

COUNTS = types.int64[::1]


@kernel(types.uint64[:, :, ::1], types.int16[:, ::1], types.int64, types.int64, INDEX, INDEX, INDEX, INDEX, COUNTS)
def _most_voted(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    p: int,
    q: int,
    row_first: NDArray[np.int64],
    column: NDArray[np.int64],
    vote: NDArray[np.int64],
    gallery_rank: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> int:
    """The gallery mask with the most votes from prompts in both masks, or -1. `counts` is zero before and after."""
    winner = -1
    first = row_first[max(box[p, 1], box[q, 1])]
    stop = row_first[min(box[p, 3], box[q, 3])]
    y = max(box[p, 1], box[q, 1])
    for k in range(first, stop):
        while row_first[y + 1] <= k:
            y += 1
        x = column[k]
        shared = bits[p, y, x >> 6] & bits[q, y, x >> 6]
        if not shared >> np.uint64(x & 63) & np.uint64(1):
            continue
        g = vote[k]
        counts[g] += 1
        ahead = winner < 0 or counts[g] > counts[winner]
        if ahead or (counts[g] == counts[winner] and gallery_rank[g] < gallery_rank[winner]):
            winner = g
    for g in vote[first:stop]:
        counts[g] = 0
    return winner


def split_overlaps(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.int64],
    gallery_bits: NDArray[np.uint64],
    gallery_box: NDArray[np.int16],
    gallery_area: NDArray[np.int32],
    gallery_rank: NDArray[np.int64],
    point_yx: NDArray[np.int32],
    vote: NDArray[np.int32],
    delta: float,
    cover: float,
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Non-overlapping masks (uint64, as `bits`) and, for each, the mask that took it in (int32 [N], -1 = none).

    `order`: masks by score, descending. vote: for each prompt at cell point_yx [P, 2] the index of its gallery mask,
    -1 = none; gallery_rank: place of each gallery mask by score, 0 = highest, which breaks ties between equally many
    votes. A pair whose overlap is below delta times the larger mask: the overlap is cut from the larger. Otherwise the
    gallery mask with the most votes from prompts inside the overlap guides: if at least `cover` of both lies in it, the
    pair becomes one, else the overlap stays with the mask whose IoU with it is higher; without a vote it stays with the
    higher score. A mask that was taken in is left empty.
    """
    out = bits.copy()
    taken_by = np.full(len(bits), -1, np.int32)
    voting = np.flatnonzero(vote >= 0)
    voting = voting[np.argsort(point_yx[voting, 0], kind="stable")]  # row by row
    y, x = point_yx[voting].astype(np.int64).T
    _split(
        out, box.copy(), area.copy(), np.asarray(order, np.int64), gallery_bits, gallery_box, gallery_area,
        np.asarray(gallery_rank, np.int64), np.searchsorted(y, np.arange(bits.shape[1] + 1)), np.ascontiguousarray(x),
        vote[voting].astype(np.int64), delta, cover, np.zeros(len(gallery_bits), np.int64), taken_by,
    )  # fmt: skip
    return out, taken_by


@kernel(
    types.uint64[:, :, ::1], types.int16[:, ::1], types.int32[::1], INDEX, BITS, BOXES, AREAS, INDEX, INDEX, INDEX,
    INDEX, types.float64, types.float64, COUNTS, types.int32[::1],
)  # fmt: skip
def _split(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.int64],
    gallery_bits: NDArray[np.uint64],
    gallery_box: NDArray[np.int16],
    gallery_area: NDArray[np.int32],
    gallery_rank: NDArray[np.int64],
    row_first: NDArray[np.int64],
    column: NDArray[np.int64],
    vote: NDArray[np.int64],
    delta: float,
    cover: float,
    counts: NDArray[np.int64],
    taken_by: NDArray[np.int32],
) -> None:
    n, h, words = bits.shape
    for i in range(n):
        p = order[i]
        j = i + 1
        while j < n:
            q = order[j]
            j += 1
            both = overlap(bits, box, p, bits, box, q) if box_overlap(box, p, box, q) > 0 else 0
            if both == 0:
                continue
            loser = q  # of the overlap; p has the higher score
            if both < delta * max(area[p], area[q]):
                if area[p] > area[q]:
                    loser = p
            else:
                guide = _most_voted(bits, box, p, q, row_first, column, vote, gallery_rank, counts)
                if guide >= 0:
                    in_p = overlap(bits, box, p, gallery_bits, gallery_box, guide)
                    in_q = overlap(bits, box, q, gallery_bits, gallery_box, guide)
                    if in_p >= cover * area[p] and in_q >= cover * area[q]:
                        area[p] += area[q] - both
                        for y in range(h):
                            for w in range(words):
                                bits[p, y, w] |= bits[q, y, w]
                                bits[q, y, w] = np.uint64(0)
                        box[p, 0], box[p, 1] = min(box[p, 0], box[q, 0]), min(box[p, 1], box[q, 1])
                        box[p, 2], box[p, 3] = max(box[p, 2], box[q, 2]), max(box[p, 3], box[q, 3])
                        area[q] = 0
                        box[q] = 0
                        taken_by[q] = p
                        j = i + 1  # p grew: it may now overlap masks it was clear of
                        continue
                    g = gallery_area[guide]
                    if in_q / (area[q] + g - in_q) > in_p / (area[p] + g - in_p):
                        loser = p
            winner = p + q - loser
            area[loser] -= both
            for y in range(h):
                for w in range(words):
                    bits[loser, y, w] &= ~bits[winner, y, w]
