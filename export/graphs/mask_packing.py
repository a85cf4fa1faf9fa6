"""Threshold and pack masks inside the graph: stability, area, box and bits.

A packed mask has 2 KB, its logits would have 64 KB.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from esam_rt.export.checkpoints.weights import Array
from esam_rt.export.graphs.graph import Graph, ints

PAIR_CELLS = 32  # mask-grid cells of a pair, two neighbors in a row of the embedding: 4 rows of 8 cells, 4 bytes


def _pair_cells() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return row 0…3 and column 0…7 of the 32 cells of a pair, in the decoder's order: cell, quarter, its quarter."""
    right, dy1, dx1, dy2, dx2 = np.unravel_index(np.arange(PAIR_CELLS), (2, 2, 2, 2, 2))
    return 2 * dy1 + dy2, 4 * right + 2 * dx1 + dx2


def _tally(masks: int) -> Array:
    """Return a matrix [32 · masks, 16 · masks]. It maps a pair to 4 bytes, 4 row counts and 8 column counts."""
    row, column = _pair_cells()
    in_row, in_column = row[:, None] == np.arange(4), column[:, None] == np.arange(8)
    parts = (in_row * 2.0 ** column[:, None], in_row, in_column)
    return np.concatenate([np.kron(part, np.eye(masks)) for part in parts], 1)


def packed_masks(
    g: Graph,
    logits: ir.Value,
    valid_hw: ir.Value,
    rows: ir.Value,
    pairs: ir.Value,
    offset: ir.Value,
    grid: int,
    masks: int,
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """Threshold, measure and pack masks.

    Counts reach G², too large for float16. Sums are float32 in every precision.

    Args:
        g: The graph.
        logits: float32 logits of rows × (2 · pairs) cells of the embedding, in the decoder's order.
        valid_hw: Rows and columns of the mask grid that are not padding, int64 [2].
        rows: Rows of the embedding, int64 [1].
        pairs: Pairs of columns of the embedding, int64 [1].
        offset: Offset of the stability score (SAM's ``stability_score_offset``), float32 [1].
        grid: Side G of the mask grid, cells.
        masks: Masks per prompt.

    Returns:
        Stability score float32 [M, masks], area int32 [M, masks], box_xyxy int32 [M, masks, 4] in cells, and bits
        uint8 [M, masks, 4 · rows, pairs].
    """
    width = PAIR_CELLS * masks
    with g.in_float32():
        logits = g.reshape(logits, -1, rows, pairs, width)
        logits = g.op("Add", logits, _outside(g, valid_hw, rows, pairs, grid, masks))
        inside = g.op("Greater", logits, 0.0)
        # The mask at +offset is inside the mask at -offset. They are the intersection and the union.
        union = _count(g, g.op("Greater", logits, g.op("Neg", offset)), masks)
        stability = g.op("Div", _count(g, g.op("Greater", logits, offset), masks), g.op("Max", union, 1.0))
    # Bytes and counts of a pair are at most 255: exact in every precision. TensorRT lacks float32 products on Turing.
    tally = g.widen(g.op("MatMul", g.cast(inside, g.precision.dtype), _tally(masks)))
    bits, by_row, by_column = g.ops("Split", tally, ints(4 * masks, 4 * masks, 8 * masks), num_outputs=3, axis=-1)
    bits = g.reshape(bits, -1, rows, pairs, 4, masks)
    four_rows = g.op("Mul", rows, ints(4))
    bits = g.reshape(g.op("Transpose", bits, perm=[0, 4, 1, 3, 2]), -1, masks, four_rows, pairs)

    by_row = g.reshape(g.op("ReduceSum", by_row, ints(2), keepdims=0), -1, four_rows, masks)
    by_column = g.op("ReduceSum", by_column, ints(1), keepdims=0)
    by_column = g.reshape(by_column, -1, g.op("Mul", pairs, ints(8)), masks)
    area = g.op("ReduceSum", by_row, ints(1), keepdims=0)
    with g.in_float32():
        nonempty = g.op("Min", area, 1.0)
        (x0, x1), (y0, y1) = (_span(g, profile, grid, nonempty) for profile in (by_column, by_row))
    box = g.op("Concat", *(g.op("Unsqueeze", v, ints(2)) for v in (x0, y0, x1, y1)), axis=2)
    # TensorRT supports uint8 only as an input or output, so the cast comes last.
    return stability, g.cast(area, np.int32), g.cast(box, np.int32), g.cast(bits, np.uint8)


def _count(g: Graph, cells: ir.Value, masks: int) -> ir.Value:
    """Count the true cells of [M, rows, pairs, 32 · masks]: float32 [M, masks]."""
    by_cell = g.op("ReduceSum", g.cast(cells, np.float32), ints(1, 2), keepdims=0)
    return g.op("ReduceSum", g.reshape(by_cell, -1, PAIR_CELLS, masks), ints(1), keepdims=0)


def _outside(g: Graph, valid_hw: ir.Value, rows: ir.Value, pairs: ir.Value, grid: int, masks: int) -> ir.Value:
    """Return float32 [rows, pairs, 32 · masks]: 0 inside the image, -inf on padding."""
    row, column = (np.repeat(cells, masks) for cells in _pair_cells())
    y = np.arange(grid // 4)[:, None, None] * 4 + row
    x = np.arange(grid // 8)[None, :, None] * 8 + column
    height, width = g.ops("Split", valid_hw, ints(1, 1), num_outputs=2)
    inside_y = g.op("Less", g.op("Slice", y, ints(0), rows, ints(0)), height)
    inside_x = g.op("Less", g.op("Slice", x, ints(0), pairs, ints(1)), width)
    return g.op("Where", g.op("And", inside_y, inside_x), 0.0, -math.inf)


def _span(g: Graph, profile: ir.Value, grid: int, nonempty: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the first occupied cell and one past the last, [M, masks] each, of counts [M, n, masks]. Empty: zeros."""
    length = g.op("Shape", profile, start=1, end=2)
    present = g.op("Min", profile, 1.0)
    up = g.op("Slice", np.arange(1.0, grid + 1)[:, None], ints(0), length, ints(0))
    end = g.op("ReduceMax", g.op("Mul", present, up), ints(1), keepdims=0)
    down = g.op("Sub", grid + 1.0, up)
    start = g.op("Sub", float(grid), g.op("ReduceMax", g.op("Mul", present, down), ints(1), keepdims=0))
    return g.op("Mul", start, nonempty), end
