"""Paints the label map at the photo's resolution from logits on the working grid.

Pixel (x, y) lies at ``((x + 0.5) scale_x - 0.5, (y + 0.5) scale_y - 0.5)`` on the grid, moved onto the nearest cell
center if it lies beyond them. Logits are interpolated bilinearly, and the entity with the highest logit wins. The label
is 0 if the logit of "no entity" is at least as high.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import INDEX, LABELS, array, kernel


def paint(
    labels_out: NDArray[np.uint16],
    fields: NDArray[np.float32],
    offset: NDArray[np.integer],
    field_box: NDArray[np.integer],
    none_hw: NDArray[np.float32],
    scale_y: float,
    scale_x: float,
) -> None:
    """Fill a label map: e + 1 for the entity e with the highest logit at a pixel, the lowest e on ties.

    An entity competes for a pixel only if its logit is above 0 in one of the four cells around it. Otherwise a third
    entity could appear along the border between two others.

    Args:
        labels_out: uint16 [Hout, Wout], C-contiguous; overwritten.
        fields: Logits of the crops of E entities, one crop after the other, float32. Outside its crop a logit is -1.
        offset: Index in ``fields`` at which each crop begins, int [E].
        field_box: Crop of each entity on the grid, int [E, 4] (x0, y0, x1, y1), half-open, in cells.
        none_hw: Logit of "no entity", float32 [H, W].
        scale_y: Cells per pixel, vertically.
        scale_x: Cells per pixel, horizontally.
    """
    grid_h, grid_w = none_hw.shape
    rows, row_fraction = cells_of_pixels(labels_out.shape[0], scale_y, grid_h)
    columns, column_fraction = cells_of_pixels(labels_out.shape[1], scale_x, grid_w)
    _paint(
        labels_out,
        np.ascontiguousarray(fields, np.float32),
        np.ascontiguousarray(offset, np.int64),
        np.ascontiguousarray(field_box, np.int32),
        np.ascontiguousarray(none_hw, np.float32),
        rows,
        row_fraction,
        np.searchsorted(columns, np.arange(grid_w + 1)),
        column_fraction,
    )


def cells_of_pixels(pixels: int, scale: float, cells: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Place the pixels of a row or column on the grid.

    Args:
        pixels: Number of pixels.
        scale: Cells per pixel.
        cells: Number of cells.

    Returns:
        The cell before each pixel, int64 [pixels], and the pixel's way to the next cell, 0 to 1, float32 [pixels].
    """
    position = np.clip((np.arange(pixels) + 0.5) * scale - 0.5, 0, cells - 1)
    cell = np.floor(position)
    return cell.astype(np.int64), (position - cell).astype(np.float32)


OUTSIDE = np.float32(-1)


@kernel(
    types.uint16[:, ::1],
    array(types.float32, 1),
    INDEX,
    LABELS,
    array(types.float32, 2),
    INDEX,
    array(types.float32, 1),
    INDEX,
    array(types.float32, 1),
)
def _paint(
    labels_out: NDArray[np.uint16],
    fields: NDArray[np.float32],
    offset: NDArray[np.int64],
    field_box: NDArray[np.int32],
    none_hw: NDArray[np.float32],
    rows: NDArray[np.int64],
    row_fraction: NDArray[np.float32],
    first_column: NDArray[np.int64],
    column_fraction: NDArray[np.float32],
) -> None:
    h, w = labels_out.shape
    grid_h, grid_w = none_hw.shape
    best = np.empty(w, np.float32)
    line = np.empty(grid_w + 2, np.float32)  # logits of a crop interpolated to row y, with a margin of one cell
    inside = np.empty(grid_w + 2, np.bool_)  # True if the cell above or below belongs to the entity
    for y in range(h):
        row, f = rows[y], row_fraction[y]
        next_row = min(row + 1, grid_h - 1)
        for c in range(grid_w):
            line[c] = none_hw[row, c] + f * (none_hw[next_row, c] - none_hw[row, c])
        for c in range(grid_w):
            left, right = line[c], line[min(c + 1, grid_w - 1)]
            for x in range(first_column[c], first_column[c + 1]):
                best[x] = left + column_fraction[x] * (right - left)
                labels_out[y, x] = 0
        for e in range(len(offset)):
            x0, y0, x1, y1 = field_box[e, 0], field_box[e, 1], field_box[e, 2], field_box[e, 3]
            if row + 1 < y0 or row >= y1:
                continue
            upper = offset[e] + (row - y0) * (x1 - x0)
            lower = upper + (x1 - x0)
            line[0] = line[x1 - x0 + 1] = OUTSIDE
            inside[0] = inside[x1 - x0 + 1] = False
            for c in range(x1 - x0):
                above = fields[upper + c] if row >= y0 else OUTSIDE
                below = fields[lower + c] if row + 1 < y1 else OUTSIDE
                line[c + 1] = above + f * (below - above)
                inside[c + 1] = above > 0 or below > 0
            for c in range(max(x0 - 1, 0), x1):
                if not (inside[c - x0 + 1] or inside[c - x0 + 2]):  # most of a box is outside its entity
                    continue
                left, right = line[c - x0 + 1], line[c - x0 + 2]
                for x in range(first_column[c], first_column[c + 1]):
                    logit = left + column_fraction[x] * (right - left)
                    if logit > best[x]:
                        best[x] = logit
                        labels_out[y, x] = e + 1
