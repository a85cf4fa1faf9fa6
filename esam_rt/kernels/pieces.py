"""Connected pieces of a label map, and the joining of small ones with their neighbors.

A row is a list of runs of one label. Runs of neighboring rows are joined by union-find: runs of an entity also at
corners, runs of label 0 only along sides. Memory holds a few numbers for each run, and none for each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import INDEX, array, kernel
from esam_rt.kernels.union_find import join, root

MAP = array(types.uint16, 2)
RUNS = array(types.int32, 1)


@dataclass(frozen=True, eq=False)
class Pieces:
    """The K connected pieces of a label map with R runs.

    Attributes:
        label: uint16 [K].
        area: int32 [K], in pixels.
        side: int32 [K], the longer side of the box around the piece, in pixels.
        row_first: int64 [H + 1], the first run of each row.
        start: int32 [R], the first column of each run.
        piece: int32 [R], the piece of each run.
    """

    label: NDArray[np.uint16]
    area: NDArray[np.int32]
    side: NDArray[np.int32]
    row_first: NDArray[np.int64]
    start: NDArray[np.int32]
    piece: NDArray[np.int32]


def find_pieces(labels: NDArray[np.uint16]) -> Pieces:
    """Find the connected pieces of a label map. They are numbered by their first pixel, row by row.

    Args:
        labels: uint16 [H, W].
    """
    labels = np.ascontiguousarray(labels)
    row_first = np.zeros(len(labels) + 1, np.int64)
    _count_runs(labels, row_first)
    start, parent = np.empty((2, row_first[-1]), np.int32)
    piece = np.full(row_first[-1], -1, np.int32)
    label, area = np.empty(row_first[-1], np.uint16), np.empty(row_first[-1], np.int32)
    box = np.empty((row_first[-1], 4), np.int32)
    count = _find_pieces(labels, row_first, start, parent, piece, label, area, box)
    side = (box[:count, 2:] - box[:count, :2]).max(axis=1, initial=0)
    return Pieces(label[:count].copy(), area[:count].copy(), side, row_first, start, piece)


def count_pieces(labels: NDArray[np.uint16], count: int) -> NDArray[np.int32]:
    """Count the connected pieces of each label from 1 to ``count``.

    Args:
        labels: uint16 [H, W].
        count: Number of labels, N.

    Returns:
        int32 [N].
    """
    return np.bincount(find_pieces(labels).label, minlength=count + 1)[1 : count + 1].astype(np.int32)


def join_pieces(labels: NDArray[np.uint16], pieces: Pieces, is_small: NDArray[np.bool_]) -> None:
    """Give each small piece the label that it has the longest border with; the lowest label on ties.

    Borders with other small pieces do not count until those have been joined. Pieces stay without a larger neighbor.

    Args:
        labels: uint16 [H, W], C-contiguous; changed.
        pieces: Its pieces.
        is_small: bool [K].
    """
    is_open, label = is_small.copy(), pieces.label.copy()
    while is_open.any():
        small, neighbor, length = _borders_of(pieces, is_open, labels.shape[1])
        if len(small) == 0:
            break
        pair, index = np.unique(small * np.int64(1 << 16) + label[neighbor], return_inverse=True)
        total = np.bincount(index, length)
        order = np.lexsort((pair, -total, pair >> 16))
        joined, first = np.unique(pair[order] >> 16, return_index=True)
        label[joined] = pair[order][first] & 0xFFFF
        is_open[joined] = False
    _repaint(labels, pieces.row_first, pieces.start, pieces.piece, pieces.label, label)


def _borders_of(
    pieces: Pieces, is_open: NDArray[np.bool_], width: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Borders of open pieces with others: the open piece, the other piece and the length in pixels, int32 [B] each."""
    out = np.empty((3, 0), np.int32)
    while True:
        count = _borders(pieces.row_first, pieces.start, pieces.piece, is_open, width, out)
        if count <= out.shape[1]:
            return out[0, :count], out[1, :count], out[2, :count]
        out = np.empty((3, count), np.int32)


@kernel(MAP, types.int64[::1])
def _count_runs(labels: NDArray[np.uint16], row_first: NDArray[np.int64]) -> None:
    h, w = labels.shape
    for y in range(h):
        count = 1
        for x in range(1, w):
            count += labels[y, x] != labels[y, x - 1]
        row_first[y + 1] = row_first[y] + count


@kernel(
    MAP,
    INDEX,
    types.int32[::1],
    types.int32[::1],
    types.int32[::1],
    types.uint16[::1],
    types.int32[::1],
    types.int32[:, ::1],
)
def _find_pieces(
    labels: NDArray[np.uint16],
    row_first: NDArray[np.int64],
    start: NDArray[np.int32],
    parent: NDArray[np.int32],
    piece: NDArray[np.int32],
    label_out: NDArray[np.uint16],
    area_out: NDArray[np.int32],
    box_out: NDArray[np.int32],
) -> int:
    h, w = labels.shape
    for y in range(h):
        k = row_first[y]
        start[k] = 0
        for x in range(1, w):
            if labels[y, x] != labels[y, x - 1]:
                parent[k] = start[k] - x
                k += 1
                start[k] = x
        parent[k] = start[k] - w
        if y == 0:
            continue
        a, b = row_first[y - 1], row_first[y]
        while a < row_first[y] and b < row_first[y + 1]:
            end_a = start[a + 1] if a + 1 < row_first[y] else w
            end_b = start[b + 1] if b + 1 < row_first[y + 1] else w
            label_a, label_b = labels[y - 1, start[a]], labels[y, start[b]]
            if label_a == label_b:
                upper, lower = root(parent, a), root(parent, b)
                if upper != lower:
                    join(parent, upper, lower)
            if end_a == end_b and end_a < w:  # the next runs touch these at a corner
                for i, j in ((a + 1, b), (a, b + 1)):
                    if labels[y - 1, start[i]] == labels[y, start[j]] and labels[y, start[j]] > 0:
                        upper, lower = root(parent, i), root(parent, j)
                        if upper != lower:
                            join(parent, upper, lower)
            a += end_a <= end_b
            b += end_b <= end_a
    count = 0
    for y in range(h):
        for k in range(row_first[y], row_first[y + 1]):
            top = root(parent, k)
            if piece[top] < 0:
                label_out[count], area_out[count] = labels[y, start[k]], -parent[top]
                box_out[count, 0], box_out[count, 1], box_out[count, 2] = w, y, 0
                piece[top] = count
                count += 1
            p = piece[k] = piece[top]
            box_out[p, 0] = min(box_out[p, 0], start[k])
            box_out[p, 2] = max(box_out[p, 2], start[k + 1] if k + 1 < row_first[y + 1] else w)
            box_out[p, 3] = y + 1
    return count


@kernel(INDEX, RUNS, RUNS, array(types.boolean, 1), types.int64, types.int32[:, ::1])
def _borders(
    row_first: NDArray[np.int64],
    start: NDArray[np.int32],
    piece: NDArray[np.int32],
    is_open: NDArray[np.bool_],
    w: int,
    out: NDArray[np.int32],
) -> int:
    """Write as many borders as there is room for, and return their number."""
    count = 0
    for y in range(len(row_first) - 1):
        for k in range(row_first[y] + 1, row_first[y + 1]):
            count = _note(piece[k - 1], piece[k], 1, is_open, out, count)
        if y == 0:
            continue
        a, b = row_first[y - 1], row_first[y]
        while a < row_first[y] and b < row_first[y + 1]:
            end_a = start[a + 1] if a + 1 < row_first[y] else w
            end_b = start[b + 1] if b + 1 < row_first[y + 1] else w
            length = min(end_a, end_b) - max(start[a], start[b])
            count = _note(piece[a], piece[b], length, is_open, out, count)
            a += end_a <= end_b
            b += end_b <= end_a
    return count


@kernel(types.int32, types.int32, types.int64, array(types.boolean, 1), types.int32[:, ::1], types.int64)
def _note(one: int, other: int, length: int, is_open: NDArray[np.bool_], out: NDArray[np.int32], count: int) -> int:
    """Append the border of an open and a closed piece. Other pairs of pieces are left out."""
    if is_open[one] == is_open[other]:
        return count
    if count < out.shape[1]:
        out[0, count] = one if is_open[one] else other
        out[1, count] = other if is_open[one] else one
        out[2, count] = length
    return count + 1


@kernel(types.uint16[:, ::1], INDEX, RUNS, RUNS, array(types.uint16, 1), array(types.uint16, 1))
def _repaint(
    labels: NDArray[np.uint16],
    row_first: NDArray[np.int64],
    start: NDArray[np.int32],
    piece: NDArray[np.int32],
    before: NDArray[np.uint16],
    after: NDArray[np.uint16],
) -> None:
    for y in range(len(labels)):
        for k in range(row_first[y], row_first[y + 1]):
            p = piece[k]
            if before[p] != after[p]:
                end = start[k + 1] if k + 1 < row_first[y + 1] else labels.shape[1]
                for x in range(start[k], end):
                    labels[y, x] = after[p]
