"""Masks against maps and labels of the working grid, and their connected parts."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.bits import pack, popcount
from esam_rt.kernels.forest import join, root
from esam_rt.kernels.jit import BITS, BOXES, INDEX, LABELS, PLANE, array, kernel


def mask_means(
    bits: NDArray[np.uint64], box: NDArray[np.int16], index: NDArray[np.integer], values_hw: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Mean of a map, float [H, W], over each mask at `index`, int [K]: float32 [K], 0 for an empty mask.

    bits: uint64 [N, H, ceil(W / 64)]; box: int16 [N, 4] (x0, y0, x1, y1, half-open); cells.
    """
    h, w = values_hw.shape
    before = np.zeros((h, w + 1))  # sum of the cells left of x
    np.cumsum(values_hw, axis=1, dtype=np.float64, out=before[:, 1:])
    mean = np.empty(len(index), np.float32)
    _mask_means(bits, box, np.ascontiguousarray(index, np.int64), before, mean)
    return mean


@kernel(BITS, BOXES, INDEX, array(types.float64, 2), types.float32[::1])
def _mask_means(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    index: NDArray[np.int64],
    before: NDArray[np.float64],
    mean: NDArray[np.float32],
) -> None:
    # A row of a mask is a few runs: their ends in the sums along the row cost less than their cells.
    one = np.uint64(1)
    for k in range(len(index)):
        i = index[k]
        total, cells = 0.0, 0
        first, stop = box[i, 0] >> 6, (box[i, 2] + 63) >> 6
        for y in range(box[i, 1], box[i, 3]):
            last = np.uint64(0)  # the cell before the word
            for w in range(first, stop):
                word = bits[i, y, w]
                cells += popcount(word)
                ends = word ^ (word << one | last)  # cells unlike the one before
                last = word >> np.uint64(63)
                while ends != 0:
                    end = ends & (~ends + one)
                    sums = before[y, w * 64 + popcount(end - one)]
                    total += -sums if word & end else sums
                    ends ^= end
            if last:
                total += before[y, stop * 64]
        mean[k] = total / cells if cells else 0.0


def smallest_holders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    labels_hw: NDArray[np.int32],
    need: NDArray[np.floating],
) -> NDArray[np.int64]:
    """For each label the smallest mask that holds at least need[label] of its cells: int64 [K], the lowest index of
    equals, -1 = none.

    labels_hw: int32 [H, W], 0…K-1, or -1 for a cell of none. need: float [K]. bits: uint64 [N, H, ceil(W / 64)]; box:
    int16 [N, 4] (x0, y0, x1, y1, half-open); area: int32 [N]; cells.
    """
    order = np.argsort(area, kind="stable")
    holder = np.full(len(need), -1, np.int64)
    if len(order):
        holder[need <= 0] = order[0]
    labelled = pack(labels_hw[None] >= 0)[0]
    _smallest_holders(bits, box, order, labels_hw, labelled, np.ascontiguousarray(need, np.float64), holder)
    return holder


@kernel(BITS, BOXES, INDEX, LABELS, PLANE, array(types.float64, 1), types.int64[::1])
def _smallest_holders(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    order: NDArray[np.int64],
    labels_hw: NDArray[np.int32],
    labelled_hw: NDArray[np.uint64],
    need: NDArray[np.float64],
    holder: NDArray[np.int64],
) -> None:
    one = np.uint64(1)
    cells = np.zeros(len(need), np.int64)
    met = np.empty(len(need), np.int64)  # labels in the mask
    for m in order:
        count = 0
        for y in range(box[m, 1], box[m, 3]):
            for w in range(box[m, 0] >> 6, (box[m, 2] + 63) >> 6):
                rest = bits[m, y, w] & labelled_hw[y, w]
                while rest != 0:
                    cell = rest & (~rest + one)
                    rest ^= cell
                    k = labels_hw[y, w * 64 + popcount(cell - one)]
                    if cells[k] == 0:
                        met[count] = k
                        count += 1
                    cells[k] += 1
        for k in met[:count]:
            if holder[k] < 0 and cells[k] >= need[k]:
                holder[k] = m
            cells[k] = 0


def without_fragments(bits: NDArray[np.uint64], min_area: int) -> NDArray[np.uint64]:
    """The masks without their connected parts (8 neighbours) of fewer than `min_area` cells: uint64, as `bits`.

    bits: uint64 [N, H, ceil(W / 64)].
    """
    out = bits.copy()
    _without_fragments(out, min_area)
    return out


@kernel(types.uint64[:, :, ::1], types.int64)
def _without_fragments(bits: NDArray[np.uint64], min_area: int) -> None:
    # Parts of runs, not of cells: 50 times as fast as OpenCV's components of each mask, and nothing is unpacked.
    n, h, words = bits.shape
    one = np.uint64(1)
    most = h * words * 32
    first, stop, parent = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32)
    row_first = np.zeros(h + 1, np.int64)
    for i in range(n):
        count = 0
        for y in range(h):
            row_first[y] = count
            last = np.uint64(0)  # the cell before the word
            for w in range(words):
                word = bits[i, y, w]
                ends = word ^ (word << one | last)  # cells unlike the one before
                last = word >> np.uint64(63)
                while ends != 0:
                    end = ends & (~ends + one)
                    x = w * 64 + popcount(end - one)
                    if word & end:
                        first[count] = x
                    else:
                        stop[count] = x
                        parent[count] = first[count] - x
                        count += 1
                    ends ^= end
            if last:
                stop[count] = words * 64
                parent[count] = first[count] - words * 64
                count += 1
            a, b = row_first[max(y - 1, 0)], row_first[y]
            while a < row_first[y] and b < count:
                if first[a] <= stop[b] and first[b] <= stop[a]:
                    upper, lower = root(parent, a), root(parent, b)
                    if upper != lower:
                        join(parent, upper, lower)
                if stop[a] < stop[b]:
                    a += 1
                else:
                    b += 1
        row_first[h] = count
        for y in range(h):
            for k in range(row_first[y], row_first[y + 1]):
                if -parent[root(parent, k)] < min_area:
                    for x in range(first[k], stop[k]):
                        bits[i, y, x >> 6] &= ~(one << np.uint64(x & 63))
