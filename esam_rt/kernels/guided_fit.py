"""The arithmetic of a guided filter with three colors, cell by cell. Callers sum over windows between the steps.

The numbers of a cell lie side by side, so that one box filter sums all.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import array, kernel

Box = tuple[int, int, int, int]
CELLS = array(types.float32, 3)
OUT = types.float32[:, :, ::1]


def weighted_colors(
    color: NDArray[np.float32], weight: NDArray[np.float32], box: Box, crop: Box
) -> NDArray[np.float32]:
    """Return red, green and blue times the weight, and the weight: float32 [h, w, 4] in a crop, 0 outside the box.

    Args:
        color: Colors of the cells, float32 [H, W, 3].
        weight: Weights of the cells in the box, float32.
        box: (x0, y0, x1, y1), half-open, in cells.
        crop: A larger box.
    """
    out = np.zeros((crop[3] - crop[1], crop[2] - crop[0], 4), np.float32)
    _weighted_colors(out, color, np.ascontiguousarray(weight), box[0], box[1], box[0] - crop[0], box[1] - crop[1])
    return out


def fit_colors(sums: NDArray[np.float32], statistics: NDArray[np.float32], crop: Box) -> None:
    """Fit weight = a * red + b * green + c * blue + d in the window around each cell of a crop, by ridge regression.

    Args:
        sums: Sums of ``weighted_colors`` over the windows, float32 [h, w, 4], C-contiguous; replaced by a, b, c, d.
        statistics: Of the window around each cell, float32 [10, H, W]: one by the number of its cells, the mean red,
            green and blue, and the upper triangle of the inverse of their covariance.
        crop: The crop (x0, y0, x1, y1), half-open, in cells.
    """
    _fit_colors(sums, statistics, crop[0], crop[1])


def mean_models(
    sums: NDArray[np.float32], statistics: NDArray[np.float32], crop: Box, inner: Box, models_out: NDArray[np.float32]
) -> None:
    """Divide sums of models by the number of cells in the window.

    Args:
        sums: Sums of the models of ``fit_colors`` over the windows, float32 [h, w, 4].
        statistics: See ``fit_colors``.
        crop: The crop of the sums (x0, y0, x1, y1), half-open, in cells.
        inner: The crop that is wanted.
        models_out: float32 of the inner crop, C-contiguous, overwritten.
    """
    _mean_models(models_out, sums, statistics, inner[0], inner[1], inner[0] - crop[0], inner[1] - crop[1])


@kernel(OUT, CELLS, array(types.float32, 2), *[types.int64] * 4)
def _weighted_colors(
    out: NDArray[np.float32],
    color: NDArray[np.float32],
    weight: NDArray[np.float32],
    x0: int,
    y0: int,
    dx: int,
    dy: int,
) -> None:
    for y in range(weight.shape[0]):
        for x in range(weight.shape[1]):
            for k in range(3):
                out[dy + y, dx + x, k] = color[y0 + y, x0 + x, k] * weight[y, x]
            out[dy + y, dx + x, 3] = weight[y, x]


@kernel(OUT, CELLS, types.int64, types.int64)
def _fit_colors(sums: NDArray[np.float32], statistics: NDArray[np.float32], x0: int, y0: int) -> None:
    share, red, green, blue = statistics[0], statistics[1], statistics[2], statistics[3]
    rr, rg, rb, gg, gb, bb = statistics[4], statistics[5], statistics[6], statistics[7], statistics[8], statistics[9]
    for y in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            i, j = y0 + y, x0 + x
            mean = sums[y, x, 3] * share[i, j]
            r = sums[y, x, 0] * share[i, j] - red[i, j] * mean
            g = sums[y, x, 1] * share[i, j] - green[i, j] * mean
            b = sums[y, x, 2] * share[i, j] - blue[i, j] * mean
            of_red = rr[i, j] * r + rg[i, j] * g + rb[i, j] * b
            of_green = rg[i, j] * r + gg[i, j] * g + gb[i, j] * b
            of_blue = rb[i, j] * r + gb[i, j] * g + bb[i, j] * b
            sums[y, x, 0], sums[y, x, 1], sums[y, x, 2] = of_red, of_green, of_blue
            sums[y, x, 3] = mean - of_red * red[i, j] - of_green * green[i, j] - of_blue * blue[i, j]


@kernel(OUT, CELLS, CELLS, *[types.int64] * 4)
def _mean_models(
    out: NDArray[np.float32],
    sums: NDArray[np.float32],
    statistics: NDArray[np.float32],
    x0: int,
    y0: int,
    dx: int,
    dy: int,
) -> None:
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for k in range(4):
                out[y, x, k] = sums[dy + y, dx + x, k] * statistics[0, y0 + y, x0 + x]
