"""Paints the label map from local color models: the entity that fits the color of a pixel best gets it.

Around each cell, an entity has a linear model of its membership: ``a * red + b * green + c * blue + d``. The four
numbers are interpolated bilinearly, as the logits are in ``upsample.py``. The pixel's own color goes in.
The borders follow the photo at its full resolution.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import INDEX, LABELS, array, kernel
from esam_rt.kernels.upsample import cells_of_pixels

AWAY, NEAR, ALONE = 0, 1, 2  # an entity does not compete for a cell, competes for it, or has no rival there
STRIP_PX = 1 << 18  # painted at a time: bounds the copy of the photo


def paint_guided(
    labels_out: NDArray[np.uint16],
    image_rows: Callable[[int, int], NDArray[np.uint8]],
    models: NDArray[np.float32],
    reach: NDArray[np.uint8],
    offset: NDArray[np.integer],
    box: NDArray[np.integer],
    grid_hw: tuple[int, int],
    scale_y: float,
    scale_x: float,
) -> None:
    """Fill a label map: the number of the entity with the highest membership at a pixel, the lowest number on ties.

    An entity competes for a pixel if it is not ``AWAY`` from one of the four cells around the pixel. Its crop must hold
    all four. Where nobody competes, the number is 0.

    Args:
        labels_out: uint16 [H, W], C-contiguous; overwritten.
        image_rows: Returns the photo from one row to another, uint8 [rows, W, 3], half-open.
        models: Models of the cells of all crops, one crop after the other, float32 [cells, 4]. Colors are 0 to 255.
        reach: ``AWAY``, ``NEAR`` or ``ALONE`` for the same cells, uint8 [cells].
        offset: Index in ``models`` at which each crop begins, int [E].
        box: Crop of each entity on the grid, int [E, 4] (x0, y0, x1, y1), half-open, in cells.
        grid_hw: Rows and columns of the grid.
        scale_y: Cells per pixel, vertically.
        scale_x: Cells per pixel, horizontally.
    """
    height, width = labels_out.shape
    rows, row_fraction = cells_of_pixels(height, scale_y, grid_hw[0])
    columns, column_fraction = cells_of_pixels(width, scale_x, grid_hw[1])
    first_column = np.searchsorted(columns, np.arange(grid_hw[1] + 1))
    crops = (
        np.ascontiguousarray(models, np.float32),
        np.ascontiguousarray(reach, np.uint8),
        np.ascontiguousarray(offset, np.int64),
        np.ascontiguousarray(box, np.int32),
    )
    strip = max(1, STRIP_PX // width)
    for y in range(0, height, strip):
        part = slice(y, y + strip)
        _paint_guided(
            labels_out[part],
            np.ascontiguousarray(image_rows(y, min(y + strip, height))),
            *crops,
            grid_hw[0],
            rows[part],
            row_fraction[part],
            first_column,
            column_fraction,
        )


@kernel(
    types.uint16[:, ::1],
    array(types.uint8, 3),
    array(types.float32, 2),
    array(types.uint8, 1),
    INDEX,
    LABELS,
    types.int64,
    INDEX,
    array(types.float32, 1),
    INDEX,
    array(types.float32, 1),
)
def _paint_guided(
    labels_out: NDArray[np.uint16],
    image: NDArray[np.uint8],
    models: NDArray[np.float32],
    reach: NDArray[np.uint8],
    offset: NDArray[np.int64],
    box: NDArray[np.int32],
    grid_h: int,
    rows: NDArray[np.int64],
    row_fraction: NDArray[np.float32],
    first_column: NDArray[np.int64],
    column_fraction: NDArray[np.float32],
) -> None:
    h, w = labels_out.shape
    grid_w = len(first_column) - 1
    best = np.empty(w, np.float32)
    left, step = np.empty(4, np.float32), np.empty(4, np.float32)
    for y in range(h):
        row, f = rows[y], row_fraction[y]
        next_row = min(row + 1, grid_h - 1)
        for x in range(w):
            best[x] = -np.inf
            labels_out[y, x] = 0
        for e in range(len(offset)):
            x0, y0, x1, y1 = box[e, 0], box[e, 1], box[e, 2], box[e, 3]
            if row < y0 or next_row >= y1:
                continue
            upper = offset[e] + (row - y0) * (x1 - x0) - x0
            lower = offset[e] + (next_row - y0) * (x1 - x0) - x0
            for c in range(x0, min(x1, grid_w)):
                d = min(c + 1, grid_w - 1)
                if d >= x1:
                    continue
                if reach[upper + c] | reach[upper + d] | reach[lower + c] | reach[lower + d] == AWAY:
                    continue
                if reach[upper + c] & reach[upper + d] & reach[lower + c] & reach[lower + d] == ALONE:
                    for x in range(first_column[c], first_column[c + 1]):
                        labels_out[y, x] = e
                    continue
                for k in range(4):
                    a, b = models[upper + c, k], models[upper + d, k]
                    left[k] = a + f * (models[lower + c, k] - a)
                    step[k] = b + f * (models[lower + d, k] - b) - left[k]
                for x in range(first_column[c], first_column[c + 1]):
                    t = column_fraction[x]
                    membership = left[3] + t * step[3]
                    for k in range(3):
                        membership += (left[k] + t * step[k]) * np.float32(image[y, x, k])
                    if membership > best[x]:
                        best[x] = membership
                        labels_out[y, x] = e
