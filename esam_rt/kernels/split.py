"""Splitting overlapping masks with the help of guidance masks (E-SAM §3.3, eq. 5 and 6), and finding what to merge."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.iou import block_counts, box_overlap, most_shared, overlap
from esam_rt.kernels.jit import AREAS, BITS, BOXES, INDEX, array, kernel

COUNTS = types.int64[::1]


def leaders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.int64],
    iou_min: float,
) -> NDArray[np.int32]:
    """Groups of nearly equal masks: int32 [N], the index of each mask's leader; -1 for an empty mask.

    In `order`, a mask joins the first leader with which its IoU is at least iou_min, or becomes one itself.
    """
    out = np.full(len(bits), -1, np.int32)
    order = np.ascontiguousarray(order[area[order] > 0], np.int64)
    _leaders(bits, box, area, order, block_counts(bits, box, order), iou_min, out)
    return out


@kernel(BITS, BOXES, AREAS, INDEX, array(types.uint16, 2), types.float64, types.int32[::1])
def _leaders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.int64],
    blocks: NDArray[np.uint16],
    iou_min: float,
    out: NDArray[np.int32],
) -> None:
    found = np.empty(len(order), np.int64)  # places of leaders in the order
    found_area = np.empty(len(order), np.int32)
    count = 0
    for place in range(len(order)):
        m = order[place]
        least, most = int(area[m] * iou_min), int(min(area[m] / max(iou_min, 1e-6), 1e9)) + 1
        for j in range(count):
            if found_area[j] < least or found_area[j] > most:
                continue
            # Of masks that are alike in size and place few are the same: the blocks tell 19 of 20 others apart, and
            # leaders of 41,000 masks are found 6 times as fast.
            leader = order[found[j]]
            both = area[m] + area[leader]
            shared = min(area[m], area[leader], box_overlap(box, m, box, leader))
            if shared < iou_min * (both - shared):
                continue
            shared = most_shared(blocks, place, found[j])
            if shared < iou_min * (both - shared):
                continue
            shared = overlap(bits, box, m, bits, box, leader)
            if shared >= iou_min * (both - shared):
                out[m] = leader
                break
        else:
            found[count] = place
            found_area[count] = area[m]
            count += 1
            out[m] = m


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


def encompassing(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    pairs: NDArray[np.int64],
    gallery_bits: NDArray[np.uint64],
    gallery_box: NDArray[np.int16],
    gallery_area: NDArray[np.int32],
    encompass: float,
    fill: float,
) -> NDArray[np.int64]:
    """For each pair [P, 2] of non-overlapping masks a gallery mask g with |a∩g| ≥ encompass·|a|, the same of b, and
    |a∪b| ≥ fill·|g| (E-SAM eq. 8): int64 [P], the first one, -1 = none."""
    out = np.full(len(pairs), -1, np.int64)
    _encompassing(
        bits, box, area, np.ascontiguousarray(pairs, np.int64), gallery_bits, gallery_box, gallery_area,
        encompass, fill, out,
    )  # fmt: skip
    return out


@kernel(BITS, BOXES, AREAS, array(types.int64, 2), BITS, BOXES, AREAS, types.float64, types.float64, types.int64[::1])
def _encompassing(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    pairs: NDArray[np.int64],
    gallery_bits: NDArray[np.uint64],
    gallery_box: NDArray[np.int16],
    gallery_area: NDArray[np.int32],
    encompass: float,
    fill: float,
    out: NDArray[np.int64],
) -> None:
    for k in range(len(pairs)):
        a, b = pairs[k, 0], pairs[k, 1]
        pair_area = area[a] + area[b]
        for g in range(len(gallery_bits)):
            size = gallery_area[g]
            if pair_area < fill * size or size < encompass * pair_area:
                continue
            if box_overlap(box, a, gallery_box, g) < encompass * area[a]:
                continue
            if overlap(bits, box, a, gallery_bits, gallery_box, g) < encompass * area[a]:
                continue
            if overlap(bits, box, b, gallery_bits, gallery_box, g) < encompass * area[b]:
                continue
            out[k] = g
            break
