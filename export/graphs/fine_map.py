"""The fine map of `tiny`: features of stride 8 that all prompts of a photo share, and bumps around each prompt's point.

A cell of the embedding is 16 px wide, and its position encoding tells points apart that are about 40 px apart. Small
objects are smaller than both. Four additions mend that without a fourfold image side for each prompt:

- The tokens' first look at the image reads keys and values of stride 8.
- The token of a point gets the features of the cell of stride 8 that holds it.
- Image positions get bumps: Gaussians of several radii around the point, for each quarter of a position.
- The masks are drawn with the fine map, added to the image as the prompt has changed it (SAM 2's way).

The runtime passes `image_tokens` from the encoder to the decoder, so the shared features travel in it, as more rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from esam_rt.export.checkpoints.weights import Array, Weights
from esam_rt.export.configs import EMBEDDING_STRIDE, DecoderDims
from esam_rt.export.graphs.attention import AttentionWeights
from esam_rt.export.graphs.graph import Graph, ints

FINE_STRIDE = EMBEDDING_STRIDE // 2
QUARTERS = 4  # cells of the fine map in a position of the embedding


@dataclass(frozen=True)
class Near:
    """Bumps for the image side of B prompts. columns: [B, n, P]."""

    columns: ir.Value

    def beside(
        self, g: Graph, weights: ir.Value, values: ir.Value, rows: int, near: Array
    ) -> tuple[ir.Value, ir.Value]:
        """Append the bumps to what writes to the image.

        Args:
            g: The decoder's graph.
            weights: [B, rows, P], how much of each value a position takes.
            values: [B, rows, C].
            rows: Heads times tokens.
            near: [n, C], what a position takes of each bump.

        Returns:
            Weights [B, rows + n, P] and values [B, rows + n, C]: one product writes both.
        """
        # Zeros are appended for each prompt and the rows are added to them: no shape depends on the batch.
        padded = g.op("Pad", values, ints(0, 0, 0, 0, len(near), 0))
        values = g.op("Add", padded, np.concatenate([np.zeros((rows, near.shape[1])), near]))
        return g.op("Concat", weights, self.columns, axis=1), values


def fine_cells(dims: DecoderDims) -> int:
    """Side of the fine map in cells."""
    return dims.input_px // FINE_STRIDE


def fine_keys_and_values(
    g: Graph, dims: DecoderDims, weights: Weights, read: AttentionWeights, image: ir.Value, position: Array
) -> tuple[ir.Value, ir.Value]:
    """Keys and values of stride 8 for the tokens' first look at the image.

    Args:
        g: The encoder's graph; it has kept the fine map as `fine`.
        dims: The decoder's dimensions.
        weights: The checkpoint.
        read: The attention from tokens to the image of the first layer.
        image: [C, P], the embedding; each position stands for its four quarters.
        position: [4P, C], encodings of the centers of the fine map's cells.

    Returns:
        Keys [H, head, 4P] and values [H, 4P, head], the values without their bias.
    """
    fine, cells = g.reshape(g.kept("fine"), dims.fine_width, -1), dims.embedding_cells

    def at_fine(weight: Array, name: str) -> ir.Value:
        """Projection of image and fine map: [inner, 4P]."""
        coarse = g.reshape(g.op("MatMul", weight.T, image), dims.inner, cells, 1, cells, 1)
        own = weights.take(f"decoder.fine.{name}.weight", dims.inner, dims.fine_width)
        own_at = g.reshape(g.op("MatMul", own, fine), dims.inner, cells, 2, cells, 2)
        return g.reshape(g.op("Add", coarse, own_at), dims.inner, -1)

    keys = g.op("Add", at_fine(read.k.weight, "keys"), (position @ read.k.weight).T)
    values = g.reshape(at_fine(read.v.weight, "values"), read.heads, read.head, -1)
    return g.reshape(keys, read.heads, read.head, len(position)), g.op("Transpose", values, perm=[0, 2, 1])


def with_fine_rows(g: Graph, dims: DecoderDims, weights: Weights, image_tokens: ir.Value) -> tuple[ir.Value, int]:
    """The embedding as the decoder reads it, and below it what else prompts share.

    Args:
        g: The encoder's graph; it has kept the fine map as `fine`.
        dims: The decoder's dimensions.
        weights: The checkpoint.
        image_tokens: [P, C].

    Returns:
        [6P, C] and 6P: P rows of the embedding, P rows that masks are drawn with, 4P rows that points read.
    """
    fine, f, c = g.kept("fine"), dims.fine_width, dims.width
    detail = g.op(
        "Conv", fine, weights.take("decoder.fine.detail.weight", c, f, 2, 2), kernel_shape=[2, 2], strides=[2, 2]
    )
    rows = g.op("Transpose", g.reshape(detail, c, -1), perm=[1, 0])
    local = g.op("Transpose", g.reshape(fine, f, -1), perm=[1, 0])
    local = g.op("MatMul", local, weights.take("decoder.fine.local.weight", c, f).T)
    return g.op("Concat", image_tokens, rows, local, axis=0), (2 + QUARTERS) * dims.embedding_cells**2


def fine_cell_of(g: Graph, dims: DecoderDims, points_xy_px: ir.Value) -> ir.Value:
    """Row of `image_tokens` that a point reads: float32 [B, K, 2] in pixels → int64 [B, K]."""
    side = fine_cells(dims)
    with g.in_float32():
        cell = g.op("Floor", g.op("Div", g.op("Add", points_xy_px, 0.5), float(FINE_STRIDE)))
        cell = g.op("Clip", cell, 0.0, side - 1.0)
    x, y = g.ops("Split", g.cast(cell, np.int64), ints(1, 1), num_outputs=2, axis=-1)
    row = g.op("Add", g.op("Mul", y, ints(side)), g.op("Add", x, ints(2 * dims.embedding_cells**2)))
    return g.op("Squeeze", row, ints(2))


def near_point(g: Graph, dims: DecoderDims, points_xy_px: ir.Value) -> Near:
    """Bumps around the first point of each prompt.

    A bump of radius r is exp(-d² / 2r²) at a distance of d pixels. It is the product of one factor of the row and one
    of the column, so 2·√P exponentials a column are enough.
    """
    cells, count = dims.embedding_cells, len(dims.near_px)
    radius = np.tile(np.asarray(dims.near_px), QUARTERS)  # columns: row of the quarter, its column, radius
    row, column = np.repeat([0, 0, 1, 1], count), np.repeat([0, 1, 0, 1], count)
    start = np.arange(cells) * EMBEDDING_STRIDE
    with g.in_float32():
        first = g.op("Slice", points_xy_px, ints(0), ints(1), ints(1))
        first = g.op("Add", first, 0.5)
        x, y = g.ops("Split", first, ints(1, 1), num_outputs=2, axis=-1)

        def factor(place: ir.Value, quarter: Array) -> ir.Value:
            """[B, n, cells]: of one axis."""
            center = start + (quarter[:, None] + 0.5) * FINE_STRIDE
            scale = radius[:, None] * np.sqrt(2)
            distance = g.op("Sub", center / scale, g.op("Mul", place, 1 / scale))
            return g.op("Exp", g.op("Neg", g.op("Mul", distance, distance)))

        by_row, by_column = factor(y, row), factor(x, column)
        bumps = g.op("Mul", g.op("Unsqueeze", by_row, ints(3)), g.op("Unsqueeze", by_column, ints(2)))
        bumps = g.reshape(bumps, -1, QUARTERS * count, cells * cells)
    return Near(g.narrow(bumps))
