"""Encoder of ``tiny``: EfficientNet-Lite0 (Tan & Le 2019), a neck that joins strides 8, 16 and 32, and a fine map."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.weights import Array, Weights
from esam_rt.export.configs import TinyDims
from esam_rt.export.graphs.graph import Graph, Precision
from esam_rt.export.graphs.image_input import photo_input


class _Layers:
    """Writes the encoder's layers to a graph. The names of the weights are those of the training code."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self.g = graph
        self.w = weights

    def conv(
        self, x: ir.Value, name: str, c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> ir.Value:
        """Apply a convolution with TensorFlow's `SAME` padding and optional ReLU6."""
        weight = self.w.take(f"{name}.weight", c_out, c_in // groups, k, k)
        return self.conv_of(x, weight, self.w.take(f"{name}.bias", c_out), stride, groups, act)

    def conv_of(
        self, x: ir.Value, weight: Array, bias: Array, stride: int = 1, groups: int = 1, act: bool = True
    ) -> ir.Value:
        k = weight.shape[-1]
        before = (k - stride) // 2
        after = k - stride - before
        pads = [before, before, after, after]
        x = self.g.op("Conv", x, weight, bias, kernel_shape=[k, k], strides=[stride] * 2, pads=pads, group=groups)
        return self.g.op("Clip", x, 0.0, 6.0) if act else x

    def block(self, x: ir.Value, name: str, c_in: int, c_out: int, k: int, stride: int, expand: int) -> ir.Value:
        """Expand 1×1, depthwise k×k, project 1×1. Add the input if the shapes are equal."""
        mid = c_in * expand
        y = self.conv(x, f"{name}.expand", c_in, mid, 1) if expand != 1 else x
        y = self.conv(y, f"{name}.depthwise", mid, mid, k, stride, groups=mid)
        y = self.conv(y, f"{name}.project", mid, c_out, 1, act=False)
        return self.g.op("Add", x, y) if stride == 1 and c_in == c_out else y

    def norm(self, x: ir.Value, name: str, c: int, eps: float) -> ir.Value:
        """Layer normalisation over the channels of [1, C, H, W]."""
        scale, bias = self.w.take(f"{name}.weight", c), self.w.take(f"{name}.bias", c)
        x = self.g.op("Transpose", x, perm=[0, 2, 3, 1])
        return self.g.op("Transpose", self.g.layer_norm(x, scale, bias, eps), perm=[0, 3, 1, 2])

    def twice(self, x: ir.Value) -> ir.Value:
        """[1, C, H, W] at twice the size, each cell repeated."""
        with self.g.in_float32():
            return self.g.op(
                "Resize",
                x,
                None,
                np.array([1.0, 1.0, 2.0, 2.0]),
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )


def _fine(layers: _Layers, dims: TinyDims, tap4: ir.Value, tap8: ir.Value, x16: ir.Value) -> ir.Value:
    """Strides 4, 8 and the neck of stride 16 joined at stride 8: [1, F, S/8, S/8]."""
    f, first = dims.fine_width, "encoder.fine.from4.weight"
    if first not in layers.w:
        raise ModelError(
            f"{layers.w.source}: tensor {first} is missing, found weights of tiny from before it had a fine map. Leave "
            "out the checkpoint to use the weights that ship with esam-rt, or train anew as the model card says."
        )
    x = layers.conv(tap4, "encoder.fine.from4", dims.tap_channels4, f, 4, 2, act=False)
    x = layers.g.op("Add", x, layers.conv(tap8, "encoder.fine.from8", dims.tap_channels[0], f, 1, act=False))
    low = layers.conv(x16, "encoder.fine.from16", dims.width, f, 1, act=False)
    x = layers.g.op("Add", x, layers.twice(low))
    for i in range(dims.fine_blocks):
        x = layers.block(x, f"encoder.fine.mix.{i}", f, f, 5, 1, 2)
    return layers.norm(x, "encoder.fine.norm", f, dims.norm_eps)


def build_encoder(dims: TinyDims, weights: Weights, precision: Precision = Precision.FP32) -> Graph:
    """Build the encoder of ``tiny``.

    Inputs: ``image`` uint8 [1, S, S, 3], RGB, and ``valid_hw_px`` int64 [2], the rows and columns of the image that are
    not padding. Output: ``embedding`` float32 [1, C, S/16, S/16]. The padding counts as black, as in training. The
    graph keeps ``fine`` [1, F, S/8, S/8] in its precision, for ``add_image_features``.

    Args:
        dims: The network's sizes.
        weights: The tensors of the network.
        precision: Type of weights and activations.

    Returns:
        The graph.

    Raises:
        ModelError: A tensor is missing or has another shape.
    """
    g = Graph("encoder", precision)
    layers = _Layers(g, weights)
    size, c = dims.input_px, dims.width
    # Do not fold the mean into the bias: the first convolution pads with zeros after the subtraction.
    x = photo_input(g, size, [dims.pixel_mean] * 3, outside=-dims.pixel_mean)
    stem = weights.take("encoder.stem.weight", dims.stem_channels, 3, 3, 3) / dims.pixel_std
    x = layers.conv_of(x, stem, weights.take("encoder.stem.bias", dims.stem_channels), stride=2)
    taps: list[ir.Value] = []
    tap4 = x
    c_in, number = dims.stem_channels, 0
    for stage in dims.stages:
        for i in range(stage.repeats):
            stride = stage.stride if i == 0 else 1
            x = layers.block(x, f"encoder.blocks.{number}", c_in, stage.channels, stage.kernel, stride, stage.expand)
            if number in dims.tap_blocks:
                taps.append(x)
            if number == dims.tap_block4:
                tap4 = x
            c_in, number = stage.channels, number + 1
    tap8, tap16, tap32 = dims.tap_channels
    low = layers.conv(taps[2], "encoder.lateral32", tap32, c, 1, act=False)
    for i in range(dims.neck_blocks):
        low = layers.block(low, f"encoder.mix32.{i}", c, c, 5, 1, 2)
    low = layers.twice(low)
    x = layers.conv(taps[0], "encoder.lateral8", tap8, c, 4, 2, act=False)
    x = g.op("Add", x, layers.conv(taps[1], "encoder.lateral16", tap16, c, 1, act=False))
    x = g.op("Add", x, low)
    for i in range(dims.neck_blocks):
        x = layers.block(x, f"encoder.mix16.{i}", c, c, 5, 1, 2)
    g.keep(_fine(layers, dims, tap4, taps[0], x), "fine")
    x = layers.norm(x, "encoder.norm", c, dims.norm_eps)
    g.output(g.widen(x), "embedding", np.float32, [1, c, size // 16, size // 16])
    return g
