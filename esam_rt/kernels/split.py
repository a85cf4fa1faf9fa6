"""Splitting overlapping masks with the help of guidance masks (E-SAM §3.3, eq. 5 and 6), and finding what to merge."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from .iou import overlap
from .jit import AREAS, BITS, BOXES, INDEX, array, kernel

CELLS = array(types.int32, 2)
OWNERS = array(types.int32, 1)


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
    _leaders(bits, box, area, np.asarray(order, np.int64), iou_min, out)
    return out


@kernel(BITS, BOXES, AREAS, INDEX, types.float64, types.int32[::1])
def _leaders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    order: NDArray[np.int64],
    iou_min: float,
    out: NDArray[np.int32],
) -> None:
    found = np.empty(len(order), np.int64)
    count = 0
    for m in order:
        if area[m] == 0:
            continue
        for j in range(count):
            leader = found[j]
            small, large = min(area[m], area[leader]), max(area[m], area[leader])
            if small < iou_min * large:
                continue
            both = overlap(bits, box, m, bits, box, leader)
            if both >= iou_min * (small + large - both):
                out[m] = leader
                break
        else:
            found[count] = m
            count += 1
            out[m] = m


@kernel(types.uint64[:, :, ::1], types.int64, types.int64, CELLS, OWNERS, INDEX, types.int32[::1])
def _most_voted(
    bits: NDArray[np.uint64],
    p: int,
    q: int,
    point_yx: NDArray[np.int32],
    vote: NDArray[np.int32],
    gallery_rank: NDArray[np.int64],
    counts: NDArray[np.int32],
) -> int:
    """The gallery mask with the most votes from prompts in both masks, or -1. `counts` is zero before and after."""
    winner = -1
    for k in range(len(vote)):
        y, x = point_yx[k, 0], point_yx[k, 1]
        shared = bits[p, y, x // 64] & bits[q, y, x // 64]
        if vote[k] < 0 or not (shared >> np.uint64(x % 64)) & np.uint64(1):
            continue
        g = vote[k]
        counts[g] += 1
        if winner < 0 or counts[g] > counts[winner]:
            winner = g
    for k in range(len(vote)):
        g = vote[k]
        if g < 0:
            continue
        if counts[g] > 0 and counts[g] == counts[winner] and gallery_rank[g] < gallery_rank[winner]:
            winner = g
    for k in range(len(vote)):
        if vote[k] >= 0:
            counts[vote[k]] = 0
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
    counts = np.zeros(max(1, len(gallery_bits)), np.int32)
    _split(
        out, box.copy(), area.copy(), np.asarray(order, np.int64), gallery_bits, gallery_box, gallery_area,
        np.asarray(gallery_rank, np.int64), np.ascontiguousarray(point_yx, np.int32),
        np.ascontiguousarray(vote, np.int32), delta, cover, counts, taken_by,
    )  # fmt: skip
    return out, taken_by


@kernel(
    types.uint64[:, :, ::1], types.int16[:, ::1], types.int32[::1], INDEX, BITS, BOXES, AREAS, INDEX, CELLS, OWNERS,
    types.float64, types.float64, types.int32[::1], types.int32[::1],
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
    point_yx: NDArray[np.int32],
    vote: NDArray[np.int32],
    delta: float,
    cover: float,
    counts: NDArray[np.int32],
    taken_by: NDArray[np.int32],
) -> None:
    n, h, words = bits.shape
    for i in range(n):
        p = order[i]
        j = i + 1
        while j < n:
            q = order[j]
            j += 1
            both = overlap(bits, box, p, bits, box, q)
            if both == 0:
                continue
            loser = q  # of the overlap; p has the higher score
            if both < delta * max(area[p], area[q]):
                if area[p] > area[q]:
                    loser = p
            else:
                guide = _most_voted(bits, p, q, point_yx, vote, gallery_rank, counts)
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
            if overlap(bits, box, a, gallery_bits, gallery_box, g) < encompass * area[a]:
                continue
            if overlap(bits, box, b, gallery_bits, gallery_box, g) < encompass * area[b]:
                continue
            out[k] = g
            break
