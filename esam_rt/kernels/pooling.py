"""Weights that average a coarse grid over the entities of a label map.

A pixel takes its value from the four grid positions around it, bilinearly. The sum of these weights over an entity is
the weight of each position in its mean.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.jit import array, kernel

FLOATS = array(types.float32, 1)


def pooling_weights(
    labels: NDArray[np.uint16],
    first: int,
    count: int,
    rows: NDArray[np.floating],
    columns: NDArray[np.floating],
    grid_hw: tuple[int, int],
) -> NDArray[np.float32]:
    """Sum the bilinear weights of the pixels of each label.

    Args:
        labels: uint16 [H, W].
        first: The first label to measure, from 1.
        count: Number of labels to measure.
        rows: Position of each pixel row on the grid, float [H], from 0 to grid_hw[0] - 1.
        columns: Position of each pixel column on the grid, float [W], from 0 to grid_hw[1] - 1.
        grid_hw: Rows and columns of the grid.

    Returns:
        float32 [count, grid_hw[0], grid_hw[1]]. The sum over the grid is the number of pixels.
    """
    weights = np.zeros((count, *grid_hw), np.float32)
    _add_weights(
        np.ascontiguousarray(labels),
        first,
        np.ascontiguousarray(rows, np.float32),
        np.ascontiguousarray(columns, np.float32),
        weights,
    )
    return weights


@kernel(array(types.uint16, 2), types.int64, FLOATS, FLOATS, types.float32[:, :, ::1])
def _add_weights(
    labels: NDArray[np.uint16],
    first: int,
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> None:
    count, grid_h, grid_w = weights.shape
    for y in range(labels.shape[0]):
        top = int(rows[y])
        bottom, down = min(top + 1, grid_h - 1), rows[y] - top
        for x in range(labels.shape[1]):
            label = np.int64(labels[y, x]) - first
            if 0 <= label < count:
                left = int(columns[x])
                right, across = min(left + 1, grid_w - 1), columns[x] - left
                weights[label, top, left] += (1 - down) * (1 - across)
                weights[label, top, right] += (1 - down) * across
                weights[label, bottom, left] += down * (1 - across)
                weights[label, bottom, right] += down * across
