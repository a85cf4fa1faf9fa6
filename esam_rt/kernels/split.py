"""Splits masks that overlap into disjoint masks (E-SAM eq. 5 and 6).

For each pair (p, q) with overlap o, p with the higher score:

- If ``|o| < delta max(|p|, |q|)``, the larger mask loses the overlap (eq. 5).
- Else a vote chooses the guide g: each prompt inside o votes for its gallery mask (eq. 6).

  - If no prompt votes, q loses the overlap.
  - If ``|p and g| >= cover |p|`` and ``|q and g| >= cover |q|``, p absorbs q.
  - Else the mask with the lower IoU with g loses the overlap.
"""

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
    """The gallery mask with the most votes from prompts in both masks, or -1. ``counts`` is zero before and after."""
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
    """Make masks disjoint.

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        area: Areas int32 [N] in cells.
        order: Masks by score, descending, int64 [N].
        gallery_bits: Gallery masks uint64 [G, H, ceil(W / 64)].
        gallery_box: Boxes of the gallery masks, int16 [G, 4].
        gallery_area: Areas of the gallery masks, int32 [G].
        gallery_rank: Rank of each gallery mask by score, int64 [G], 0 for the highest. It breaks ties of votes.
        point_yx: Prompts int32 [P, 2], y before x, in cells.
        vote: Gallery mask of each prompt, int32 [P]; -1 for no vote.
        delta: Overlaps below this share of the larger mask need no vote.
        cover: Share of both masks that a guide must contain to make them one.

    Returns:
        Disjoint masks uint64, shaped as ``bits``, and for each mask the mask that absorbed it, int32 [N], -1 if none
        did. An absorbed mask is empty.
    """
    out = bits.copy()
    taken_by = np.full(len(bits), -1, np.int32)
    voting = np.flatnonzero(vote >= 0)
    voting = voting[np.argsort(point_yx[voting, 0], kind="stable")]  # sorted by row
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
            loser = q  # loses the overlap; p has the higher score
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
                        j = i + 1  # start again: p grew and may now overlap masks that it did not overlap before
                        continue
                    g = gallery_area[guide]
                    if in_q / (area[q] + g - in_q) > in_p / (area[p] + g - in_p):
                        loser = p
            winner = p + q - loser  # the other one of the two
            area[loser] -= both
            for y in range(h):
                for w in range(words):
                    bits[loser, y, w] &= ~bits[winner, y, w]
