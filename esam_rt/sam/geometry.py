"""Geometry: how an image lies in the square input of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esam_rt.rounding import ceil_div

CELL_PX = 4  # pixels of the input for one cell of the mask grid
PATCH_PX = 16  # pixels of the input for one position of the embedding
CELLS_PER_PATCH = PATCH_PX // CELL_PX
CELLS_PER_BYTE = 8  # a packed mask has one bit for each cell


@dataclass(frozen=True)
class Geometry:
    """The place of an image in the model's input: scaled to the longest side, at the top left, padded right and below.

    Attributes:
        orig_hw: Height and width of the image, in pixels.
        resized_hw: Height and width after scaling, in pixels of the input.
        grid_hw: Rows and columns of the working grid, in cells. The last ones may be partly padding.
    """

    orig_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    grid_hw: tuple[int, int]

    @classmethod
    def of(cls, orig_hw: tuple[int, int], input_px: int) -> Geometry:
        """Return the geometry of an image.

        Args:
            orig_hw: Height and width of the image, in pixels.
            input_px: Side of the model's input, in pixels.
        """
        scale = input_px / max(orig_hw)
        h, w = (min(input_px, max(1, int(side * scale + 0.5))) for side in orig_hw)
        return cls(orig_hw, (h, w), (ceil_div(h, CELL_PX), ceil_div(w, CELL_PX)))

    @property
    def cells_per_pixel(self) -> tuple[float, float]:
        """Cells of the grid for one pixel of the image, vertically and horizontally."""
        (h, w), (resized_h, resized_w) = self.orig_hw, self.resized_hw
        return resized_h / CELL_PX / h, resized_w / CELL_PX / w

    def from_pixels(self, points_xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Convert pixels of the image to the unit square.

        Args:
            points_xy: Points [..., 2], x before y.

        Returns:
            float32 [..., 2] in [0, 1].
        """
        h, w = self.orig_hw
        return np.asarray(np.asarray(points_xy, np.float64) / (w, h), np.float32)

    def to_input_px(self, points_norm_xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert points of the unit square to pixels of the input, as SAM counts them.

        Args:
            points_norm_xy: Points [..., 2] in [0, 1] of the image, x before y.

        Returns:
            float32 [..., 2], x before y.
        """
        h, w = self.resized_hw
        return np.asarray(points_norm_xy * np.array([w, h], np.float32), np.float32)

    def to_cell_yx(self, points_norm_xy: NDArray[np.float32]) -> NDArray[np.int32]:
        """Find the cells that hold points.

        Args:
            points_norm_xy: Points [N, 2] in [0, 1] of the image, x before y.

        Returns:
            int32 [N, 2], row before column.
        """
        cells = np.floor(self.to_input_px(points_norm_xy)[:, ::-1] / CELL_PX).astype(np.int32)
        return np.clip(cells, 0, np.array(self.grid_hw, np.int32) - 1)

    def from_cell_xy(self, cells_xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Convert positions on the grid to the unit square.

        Args:
            cells_xy: Positions [N, 2] in cells, x before y; (0, 0) is the center of the first cell.

        Returns:
            float32 [N, 2] in [0, 1] of the image, x before y.
        """
        h, w = self.resized_hw
        points = (np.asarray(cells_xy, np.float64) + 0.5) * CELL_PX / np.array([w, h])
        return np.asarray(np.clip(points, 0, 1), np.float32)

    def embedding_positions(self, input_px: int) -> NDArray[np.int64]:
        """Return the positions of the embedding that the image covers.

        The columns are an even number, because a byte of a packed mask holds the cells of two positions.

        Args:
            input_px: Side of the model's input, in pixels.

        Returns:
            int64 [rows, columns], numbered row by row over the whole embedding.
        """
        h, w = self.grid_hw
        side = input_px // PATCH_PX
        rows = ceil_div(h, CELLS_PER_PATCH)
        columns = CELLS_PER_BYTE // CELLS_PER_PATCH * ceil_div(w, CELLS_PER_BYTE)
        return np.arange(side * side).reshape(side, side)[:rows, :columns]
