"""Paints the label map from local color models: the entity that fits the color of a pixel best gets it.

Around each cell, an entity has a linear model of its membership: ``a * red + b * green + c * blue + d``. The four
numbers are interpolated bilinearly, as the logits are in ``upsample.py``. The pixel's own color goes in.
The borders follow the photo at its full resolution.

The rows of pixels between two rows of the grid are painted together: models are interpolated along columns once for all
of them, and the loop over the pixels of a row is simple enough for vector instructions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import INDEX, LABELS, array, kernel
from esam_rt.kernels.upsample import cells_of_pixels

FIELDS = types.float32[:, ::1]
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
        image_rows: Returns the photo from one row to another, half-open: uint8 [3, rows, W], red, green and blue.
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
    fields = np.empty((8, w), np.float32)
    best = np.empty((h, w), np.float32)
    y0 = 0
    while y0 < h:
        row, next_row = rows[y0], min(rows[y0] + 1, grid_h - 1)
        y1 = y0 + 1
        while y1 < h and rows[y1] == row:
            y1 += 1
        for y in range(y0, y1):
            for x in range(w):
                best[y - y0, x] = -np.inf
                labels_out[y, x] = 0
        for e in range(len(offset)):
            left, top, right, bottom = box[e, 0], box[e, 1], box[e, 2], box[e, 3]
            if row < top or next_row >= bottom:
                continue
            upper = offset[e] + (row - top) * (right - left) - left
            lower = offset[e] + (next_row - top) * (right - left) - left
            start, state = left, AWAY  # of the cells before c that are painted in one way
            for c in range(left, right + 1):
                here, d = AWAY, min(c + 1, grid_w - 1)
                if c < right and d < right:
                    any_of = reach[upper + c] | reach[upper + d] | reach[lower + c] | reach[lower + d]
                    all_of = reach[upper + c] & reach[upper + d] & reach[lower + c] & reach[lower + d]
                    here = ALONE if all_of == ALONE else NEAR if any_of != AWAY else AWAY
                if here == state and c < right:
                    continue
                x0, x1 = first_column[start], first_column[c]
                if state == ALONE:
                    for y in range(y0, y1):
                        for x in range(x0, x1):
                            labels_out[y, x] = e
                elif state == NEAR:
                    _interpolate(fields, models, upper, lower, start, c, first_column, column_fraction)
                    _compete(labels_out, best, image, fields, row_fraction, y0, y1, x0, x1, e)
                start, state = c, here
        y0 = y1


@kernel(FIELDS, array(types.float32, 2), *[types.int64] * 4, INDEX, array(types.float32, 1))
def _interpolate(
    fields_out: NDArray[np.float32],
    models: NDArray[np.float32],
    upper: int,
    lower: int,
    start: int,
    stop: int,
    first_column: NDArray[np.int64],
    column_fraction: NDArray[np.float32],
) -> None:
    """Interpolate two rows of models to columns of pixels: the upper row, and the change down to the lower row."""
    last = len(first_column) - 2
    for c in range(start, stop):
        d = min(c + 1, last)
        for k in range(4):
            a, b = models[upper + c, k], models[lower + c, k]
            a_step, b_step = models[upper + d, k] - a, models[lower + d, k] - b
            for x in range(first_column[c], first_column[c + 1]):
                above = a + column_fraction[x] * a_step
                fields_out[k, x] = above
                fields_out[4 + k, x] = b + column_fraction[x] * b_step - above


@kernel(
    types.uint16[:, ::1], FIELDS, array(types.uint8, 3), array(types.float32, 2), array(types.float32, 1),
    *[types.int64] * 5,
)  # fmt: skip
def _compete(
    labels: NDArray[np.uint16],
    best: NDArray[np.float32],
    image: NDArray[np.uint8],
    fields: NDArray[np.float32],
    row_fraction: NDArray[np.float32],
    y0: int,
    y1: int,
    x0: int,
    x1: int,
    label: int,
) -> None:
    """Give pixels to a label where its membership is higher than the best one."""
    for y in range(y0, y1):
        f, i = row_fraction[y], np.uint64(y - y0)
        for x in range(np.uint64(x0), np.uint64(x1)):
            membership = fields[3, x] + f * fields[7, x]
            membership += (fields[0, x] + f * fields[4, x]) * np.float32(image[0, y, x])
            membership += (fields[1, x] + f * fields[5, x]) * np.float32(image[1, y, x])
            membership += (fields[2, x] + f * fields[6, x]) * np.float32(image[2, y, x])
            is_best = membership > best[i, x]
            best[i, x] = membership if is_best else best[i, x]
            labels[y, x] = np.uint16(label) if is_best else labels[y, x]
