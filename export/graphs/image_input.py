"""The input of every encoder: the image in the top left corner of a square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from esam_rt.export.graphs.graph import Graph, ints


def photo_input(g: Graph, input_px: int, mean: Sequence[float], outside: float = 0.0) -> ir.Value:
    """Add the inputs of an encoder and subtract the mean.

    The inputs are ``image`` uint8 [1, S, S, 3], RGB, and ``valid_hw_px`` int64 [2], the rows and columns of the image
    that are not padding. The weights of the first layer divide by the standard deviation.

    Args:
        g: The encoder's graph.
        input_px: Side S of the square, pixels.
        mean: Mean per RGB channel, 0…255.
        outside: Value of the padding after the mean is subtracted.

    Returns:
        Pixels minus mean [1, 3, S, S], in the graph's precision.
    """
    image = g.input("image", np.uint8, [1, input_px, input_px, 3])
    height, width = g.ops("Split", g.input("valid_hw_px", np.int64, [2]), ints(1, 1), num_outputs=2)
    # Channels first: with the mask repeated along the last axis, `Where` takes 23 ms at 1024² instead of 2.
    image = g.op("Transpose", g.cast(image, np.float32), perm=[0, 3, 1, 2])
    y, x = np.arange(input_px).reshape(1, 1, -1, 1), np.arange(input_px).reshape(1, 1, 1, -1)
    inside = g.op("And", g.op("Less", y, height), g.op("Less", x, width))
    with g.in_float32():
        image = g.op("Where", inside, g.op("Sub", image, np.reshape(mean, (3, 1, 1))), outside)
    return g.narrow(image)
