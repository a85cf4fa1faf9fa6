"""The input of every encoder: the photo in the top left corner of a square."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import Graph, ints


def photo_input(g: Graph, input_px: int) -> tuple[ir.Value, ir.Value]:
    """Inputs `image` uint8 [1, S, S, 3] and `valid_hw_px` int64 [2], the rows and columns that are photo.

    Returns float32 [1, S, S, 3], 0…255, and bool [1, S, S, 1], true on the photo.
    """
    image = g.input("image", np.uint8, [1, input_px, input_px, 3])
    height, width = g.ops("Split", g.input("valid_hw_px", np.int64, [2]), ints(1, 1), num_outputs=2)
    y, x = np.arange(input_px).reshape(1, -1, 1, 1), np.arange(input_px).reshape(1, 1, -1, 1)
    return g.cast(image, np.float32), g.op("And", g.op("Less", y, height), g.op("Less", x, width))
