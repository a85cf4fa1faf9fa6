"""Intersections and IoU of bit-packed masks: a box test first, then only the rows and words that both boxes touch."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from .bits import popcount
from .jit import AREAS, BITS, BOXES, kernel


@kernel(BOXES, types.int64, BOXES, types.int64)
def box_overlap(box_a: NDArray[np.int16], i: int, box_b: NDArray[np.int16], j: int) -> int:
    """Cells that boxes i and j share: no two masks in them have more in common."""
    x = min(box_a[i, 2], box_b[j, 2]) - max(box_a[i, 0], box_b[j, 0])
    y = min(box_a[i, 3], box_b[j, 3]) - max(box_a[i, 1], box_b[j, 1])
    return x * y if x > 0 and y > 0 else 0


@kernel(BITS, BOXES, types.int64, BITS, BOXES, types.int64)
def overlap(
    bits_a: NDArray[np.uint64],
    box_a: NDArray[np.int16],
    i: int,
    bits_b: NDArray[np.uint64],
    box_b: NDArray[np.int16],
    j: int,
) -> int:
    """Cells that masks i and j share; their boxes must overlap."""
    first = max(box_a[i, 0], box_b[j, 0]) >> 6
    stop = (min(box_a[i, 2], box_b[j, 2]) + 63) >> 6
    cells = 0
    for y in range(max(box_a[i, 1], box_b[j, 1]), min(box_a[i, 3], box_b[j, 3])):
        for w in range(first, stop):
            cells += popcount(bits_a[i, y, w] & bits_b[j, y, w])
    return cells


def intersections(
    bits_a: NDArray[np.uint64], box_a: NDArray[np.int16], bits_b: NDArray[np.uint64], box_b: NDArray[np.int16]
) -> NDArray[np.int32]:
    """Cells that each mask of A shares with each of B: int32 [Na, Nb].

    bits: uint64 [N, H, ceil(W / 64)]; box: int16 [N, 4] (x0, y0, x1, y1, half-open); both on one grid.
    """
    cells = np.zeros((len(bits_a), len(bits_b)), np.int32)
    _intersections(bits_a, box_a, bits_b, box_b, cells)
    return cells


@kernel(BITS, BOXES, BITS, BOXES, types.int32[:, ::1])
def _intersections(
    bits_a: NDArray[np.uint64],
    box_a: NDArray[np.int16],
    bits_b: NDArray[np.uint64],
    box_b: NDArray[np.int16],
    cells: NDArray[np.int32],
) -> None:
    for i in range(len(bits_a)):
        for j in range(len(bits_b)):
            if box_overlap(box_a, i, box_b, j) > 0:
                cells[i, j] = overlap(bits_a, box_a, i, bits_b, box_b, j)


def iou_matrix(
    bits_a: NDArray[np.uint64],
    box_a: NDArray[np.int16],
    area_a: NDArray[np.int32],
    bits_b: NDArray[np.uint64],
    box_b: NDArray[np.int16],
    area_b: NDArray[np.int32],
) -> NDArray[np.float32]:
    """IoU of each mask of A with each of B: float32 [Na, Nb], 0 where both are empty. area: int32 [N], cells."""
    cells = intersections(bits_a, box_a, bits_b, box_b)
    union = np.add.outer(area_a, area_b) - cells
    return np.divide(cells, np.maximum(union, 1, out=union), dtype=np.float64).astype(np.float32)


def best_iou(
    bits_a: NDArray[np.uint64],
    box_a: NDArray[np.int16],
    area_a: NDArray[np.int32],
    bits_b: NDArray[np.uint64],
    box_b: NDArray[np.int16],
    area_b: NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Highest IoU of each mask of A with any of B, float32 [Na], and whose it is, int32 [Na].

    The lowest index of equals; 0 and -1 where nothing of B overlaps. No memory beyond the results.
    """
    iou = np.zeros(len(bits_a), np.float32)
    index = np.full(len(bits_a), -1, np.int32)
    _best_iou(bits_a, box_a, area_a, bits_b, box_b, area_b, iou, index)
    return iou, index


@kernel(BITS, BOXES, AREAS, BITS, BOXES, AREAS, types.float32[::1], types.int32[::1])
def _best_iou(
    bits_a: NDArray[np.uint64],
    box_a: NDArray[np.int16],
    area_a: NDArray[np.int32],
    bits_b: NDArray[np.uint64],
    box_b: NDArray[np.int16],
    area_b: NDArray[np.int32],
    iou: NDArray[np.float32],
    index: NDArray[np.int32],
) -> None:
    for i in range(len(bits_a)):
        best = 0.0
        for j in range(len(bits_b)):
            bound = min(area_a[i], area_b[j], box_overlap(box_a, i, box_b, j))
            both = area_a[i] + area_b[j]
            if bound == 0 or bound / (both - bound) <= best:
                continue
            cells = overlap(bits_a, box_a, i, bits_b, box_b, j)
            if cells / (both - cells) > best:
                best = cells / (both - cells)
                index[i] = j
        iou[i] = best
