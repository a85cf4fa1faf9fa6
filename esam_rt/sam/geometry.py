"""How an image lies in the square input of a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger("esam_rt")
CELL_PX = 4  # pixels of the input a cell of the mask grid
PATCH_PX = 16  # pixels of the input a position of the embedding


@dataclass(frozen=True)
class Geometry:
    """How a photo lies in the square input: scaled to the longest side, top left, padded right and below.

    orig_hw, resized_hw: pixels before and after scaling. grid_hw: cells of the working grid, the last row and column
    perhaps partly padding.
    """

    orig_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    grid_hw: tuple[int, int]

    @classmethod
    def of(cls, orig_hw: tuple[int, int], input_px: int) -> Geometry:
        """Geometry of a photo of orig_hw pixels for an input of input_px²."""
        scale = input_px / max(orig_hw)
        h, w = (min(input_px, max(1, int(side * scale + 0.5))) for side in orig_hw)
        return cls(orig_hw, (h, w), (-(-h // CELL_PX), -(-w // CELL_PX)))

    def to_input_px(self, points_norm_xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, 2] of [0, 1]² of the photo → pixels of the input, x before y, as SAM counts them."""
        h, w = self.resized_hw
        return np.asarray(points_norm_xy * np.array([w, h], np.float32), np.float32)

    def to_cell_yx(self, points_norm_xy: NDArray[np.float32]) -> NDArray[np.int32]:
        """[N, 2] x, y of [0, 1]² → the cells that hold them, int32 [N, 2], row before column."""
        cells = np.floor(self.to_input_px(points_norm_xy)[:, ::-1] / CELL_PX).astype(np.int32)
        return np.clip(cells, 0, np.array(self.grid_hw, np.int32) - 1)

    def from_cell_xy(self, cells_xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Positions on the grid (centre of the first cell at 0, 0), x before y → [0, 1]² of the photo."""
        h, w = self.resized_hw
        points = (np.asarray(cells_xy, np.float64) + 0.5) * CELL_PX / np.array([w, h])
        return np.asarray(np.clip(points, 0, 1), np.float32)
