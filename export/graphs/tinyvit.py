"""MobileSAM's encoder: TinyViT-5M (Wu et al. 2022, distilled by Zhang et al. 2023) and SAM's neck.

Batch norms are folded into their convolutions. Tokens are ``[P, C]`` with P = h·w positions row by row. Images are
``[1, C, h, w]``.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from esam_rt.export.checkpoints.weights import Array, Weights
from esam_rt.export.configs import TinyVitDims, TinyVitStage
from esam_rt.export.graphs.attention import Projection
from esam_rt.export.graphs.graph import Graph, Precision, ints
from esam_rt.export.graphs.image_input import photo_input
from esam_rt.rounding import ceil_div

STEM_STRIDE = 4


def build_tinyvit_encoder(dims: TinyVitDims, weights: Weights, precision: Precision = Precision.FP32) -> Graph:
    """Build MobileSAM's encoder.

    Inputs: ``image`` uint8 [1, S, S, 3], RGB, and ``valid_hw_px`` int64 [2], the rows and columns of the image that are
    not padding. Output: ``embedding`` float32 [1, C, S/16, S/16]. The padding is ignored, as in
    SAM, which pads with zeros after normalization.

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
    net = _Encoder(g, dims, weights)
    x = net.first_stage(photo_input(g, dims.input_px, dims.pixel_mean))
    side, width, layer = dims.input_px // STEM_STRIDE, dims.conv_width, "encoder.layers.0"
    for number, stage in enumerate(dims.stages, 1):
        x = net.merging(x, f"{layer}.downsample", width, stage)
        side, width, layer = side // stage.stride, stage.width, f"encoder.layers.{number}"
        x = net.tokens_of(x, width)
        for i in range(stage.depth):
            x = net.block(x, f"{layer}.blocks.{i}", stage, side)
        if number < len(dims.stages):
            x = net.image_of(x, width, side)
    embedding = net.neck(x, width, side)
    g.output(g.widen(embedding), "embedding", np.float32, [1, dims.neck, side, side])
    return g


class _Encoder:
    """Writes the parts of the network to a graph."""

    def __init__(self, g: Graph, dims: TinyVitDims, weights: Weights) -> None:
        self.g, self.d, self.w = g, dims, weights

    def first_stage(self, x: ir.Value) -> ir.Value:
        """Embed patches of 4², then apply inverted residual blocks: [1, 3, S, S] → [1, C, S/4, S/4]."""
        g, c, hidden = self.g, self.d.conv_width, self.d.conv_width * self.d.conv_expand
        x = g.gelu(self.conv(x, "encoder.patch_embed.seq.0", 3, c // 2, 3, 2, scale=1 / np.array(self.d.pixel_std)))
        x = self.conv(x, "encoder.patch_embed.seq.2", c // 2, c, 3, 2)
        for i in range(self.d.conv_depth):
            name = f"encoder.layers.0.blocks.{i}"
            y = g.gelu(self.conv(x, f"{name}.conv1", c, hidden, 1))
            y = g.gelu(self.conv(y, f"{name}.conv2", hidden, hidden, 3, groups=hidden))
            x = g.gelu(g.op("Add", x, self.conv(y, f"{name}.conv3", hidden, c, 1)))
        return x

    def merging(self, x: ir.Value, name: str, c_in: int, stage: TinyVitStage) -> ir.Value:
        """Merge patches between two stages: [1, c_in, h, w] → [1, C, h/stride, w/stride]."""
        g, c = self.g, stage.width
        x = g.gelu(self.conv(x, f"{name}.conv1", c_in, c, 1))
        x = g.gelu(self.conv(x, f"{name}.conv2", c, c, 3, stage.stride, groups=c))
        return self.conv(x, f"{name}.conv3", c, c, 1)

    def block(self, x: ir.Value, name: str, stage: TinyVitStage, side: int) -> ir.Value:
        """Apply attention within windows, a depthwise convolution and two linear layers: [P, C] → [P, C]."""
        g, c, hidden = self.g, stage.width, stage.width * self.d.mlp_ratio
        x = g.op("Add", x, self.attention(x, f"{name}.attn", stage, side))
        x = self.tokens_of(self.conv(self.image_of(x, c, side), f"{name}.local_conv", c, c, 3, groups=c), c)
        scale, bias = self.affine(f"{name}.mlp.norm", c)
        y = g.layer_norm(x, scale, bias, self.d.norm_eps)
        y = g.gelu(Projection.take(self.w, f"{name}.mlp.fc1", c, hidden)(g, y))
        return g.op("Add", x, Projection.take(self.w, f"{name}.mlp.fc2", hidden, c)(g, y))

    def attention(self, x: ir.Value, name: str, stage: TinyVitStage, side: int) -> ir.Value:
        """Apply attention within windows: [P, C] → [P, C].

        The network pads windows beyond the image with zeros before its norm, so the padding becomes the norm's bias.
        Here the norm and the linear layers have no bias. Zeros stay zeros, and the padding can wait until the transpose
        to windows and heads. The biases move on. The bias of the keys is dropped: softmax cancels a term that all
        positions of a window share. The bias of the values is added to the output's: the attention weights sum to one.
        The bias of the queries stays: the queries of the padding are not kept.
        """
        g, c, heads, window = self.g, stage.width, stage.heads, stage.window
        head, windows = c // heads, ceil_div(side, window)
        scale, shift = self.affine(f"{name}.norm", c)
        qkv = Projection.take(self.w, f"{name}.qkv", c, 3 * c)
        q, k, v = self._by_head(Projection(qkv.weight, shift @ qkv.weight + qkv.bias), heads)
        x = g.layer_norm(x, scale, np.zeros(c), self.d.norm_eps)
        queries = self._to_windows(q.scaled(1 / math.sqrt(head))(g, x), stage, side)
        keys = self._to_windows(g.op("MatMul", x, k.weight), stage, side)
        values = self._to_windows(g.op("MatMul", x, v.weight), stage, side)
        scores = g.op("MatMul", queries, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
        mixed = g.op("MatMul", g.softmax(g.op("Add", scores, self._position_bias(name, stage))), values)
        mixed = g.reshape(mixed, windows, windows, heads, window, window, head)
        mixed = g.reshape(g.op("Transpose", mixed, perm=[0, 3, 1, 4, 2, 5]), windows * window, windows * window, c)
        if side % window:
            mixed = g.op("Slice", mixed, ints(0, 0), ints(side, side), ints(0, 1))
        out = Projection.take(self.w, f"{name}.proj", c, c)
        return Projection(out.weight, v.bias @ out.weight + out.bias)(g, g.reshape(mixed, -1, c))

    def neck(self, tokens: ir.Value, width: int, side: int) -> ir.Value:
        """Apply SAM's neck: [P, C] → embedding [1, neck, side, side]."""
        g, c, eps = self.g, self.d.neck, self.d.neck_norm_eps
        x = g.op("MatMul", tokens, self.w.take("encoder.neck.conv1.weight", c, width, 1, 1).reshape(c, width).T)
        x = self.image_of(g.layer_norm(x, *self.affine("encoder.neck.norm1", c), eps), c, side)
        x = g.op("Conv", x, self.w.take("encoder.neck.conv2.weight", c, c, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
        return self.image_of(g.layer_norm(self.tokens_of(x, c), *self.affine("encoder.neck.norm2", c), eps), c, side)

    def conv(
        self,
        x: ir.Value,
        name: str,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        scale: Array | float = 1.0,
    ) -> ir.Value:
        """Apply convolution `c`, zero-padded, and batch norm `bn`. `scale` multiplies the input channels."""
        weight = self.w.take(f"{name}.c.weight", c_out, c_in // groups, kernel, kernel)
        gain, bias = self.affine(f"{name}.bn", c_out)
        mean, variance = (self.w.take(f"{name}.bn.running_{part}", c_out) for part in ("mean", "var"))
        gain = gain / np.sqrt(variance + self.d.batch_norm_eps)
        weight = weight * gain[:, None, None, None] * np.reshape(scale, (-1, 1, 1))
        return self.g.op(
            "Conv",
            x,
            weight,
            bias - mean * gain,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def affine(self, name: str, width: int) -> tuple[Array, Array]:
        """Take scale and bias of a norm."""
        return self.w.take(f"{name}.weight", width), self.w.take(f"{name}.bias", width)

    def tokens_of(self, image: ir.Value, width: int) -> ir.Value:
        """[1, C, h, w] → [P, C]."""
        return self.g.reshape(self.g.op("Transpose", image, perm=[0, 2, 3, 1]), -1, width)

    def image_of(self, tokens: ir.Value, width: int, side: int) -> ir.Value:
        """[P, C] → [1, C, side, side]."""
        return self.g.op("Transpose", self.g.reshape(tokens, 1, side, side, width), perm=[0, 3, 1, 2])

    def _by_head(self, qkv: Projection, heads: int) -> list[Projection]:
        """Split the query, key and value layers, which are interleaved within each head."""
        c = len(qkv.weight)
        weights = qkv.weight.reshape(c, heads, 3, -1)
        biases = qkv.bias.reshape(heads, 3, -1)
        return [Projection(weights[:, :, i].reshape(c, c), biases[:, i].reshape(c)) for i in range(3)]

    def _to_windows(self, x: ir.Value, stage: TinyVitStage, side: int) -> ir.Value:
        """Split [P, C] into zero-padded windows, by head: [windows², heads, N, head]."""
        g, window, heads = self.g, stage.window, stage.heads
        windows = ceil_div(side, window)
        x = g.reshape(x, side, side, stage.width)
        if padding := windows * window - side:
            x = g.op("Pad", x, ints(0, 0, 0, padding, padding, 0))
        x = g.reshape(x, windows, window, windows, window, heads, -1)
        x = g.op("Transpose", x, perm=[0, 2, 4, 1, 3, 5])
        return g.reshape(x, windows**2, heads, window**2, -1)

    def _position_bias(self, name: str, stage: TinyVitStage) -> Array:
        """Return the bias of a window's scores [heads, N, N]: one number per distance in rows and columns."""
        positions = stage.window**2
        table = self.w.take(f"{name}.attention_biases", stage.heads, positions)
        y, x = np.divmod(np.arange(positions), stage.window)
        rows, columns = np.abs(y[:, None] - y), np.abs(x[:, None] - x)
        return table[:, rows * stage.window + columns]
