"""SAM's image encoder (Kirillov et al. 2023): a plain ViT and a neck.

The blocks attend within windows or to the whole image, with decomposed relative positions (Li et al. 2022).

Layouts: tokens ``[P, C]``, with P = S·S positions row by row and S the side of the embedding. An attention sees W
windows of n = w·w positions, ``[W, H, n, head]``. The whole image is one window with w = S.

The query layer includes the scale of the scores, so the tables of relative positions are divided by it. The bias of the
keys is dropped: softmax cancels it. The bias of the values is added to the output's: the attention weights sum to one.
This is also why windows beyond the image can be padded with zeros after the linear layer. SAM pads before it, so its
padded keys and values are the biases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import onnx_ir as ir

from esam_rt.export.checkpoints.weights import Array, LazyArray, Weights
from esam_rt.export.configs import VitDims
from esam_rt.export.graphs.graph import NEW_OPSET, Graph, Precision, ints
from esam_rt.export.graphs.image_input import photo_input
from esam_rt.rounding import ceil_div

CHUNK_POSITIONS = 512


class AttentionForm(StrEnum):
    """How relative positions are added to the scores. All forms compute the same numbers.

    Attributes:
        CONCAT: One product of [q, rows, columns] with [k, one-hot row, one-hot column], in plain operators.
        FUSED: The same product in ONNX's operator Attention. The values are as wide as the keys, as TensorRT needs.
        BIAS: For CPUs. Global blocks add the terms of rows and columns, head by head. All but windowed attention runs
            on 512 positions at a time, so that the next operator finds its input in the CPU's cache.
    """

    CONCAT = "concat"
    FUSED = "fused"
    BIAS = "bias"


def build_vit_encoder(
    dims: VitDims,
    weights: Weights,
    precision: Precision = Precision.FP32,
    attention: AttentionForm = AttentionForm.BIAS,
) -> Graph:
    """Build SAM's ViT encoder.

    Inputs: ``image`` uint8 [1, S, S, 3], RGB, and ``valid_hw_px`` int64 [2], the rows and columns of the image that are
    not padding. Output: ``embedding`` float32 [1, C, S/16, S/16]. The padding is ignored, as in
    SAM, which pads with zeros after normalization.

    Args:
        dims: The network's sizes.
        weights: The tensors of the network.
        precision: Type of weights and activations.
        attention: How relative positions are added.

    Returns:
        The graph, of opset 18, or 23 for ``fused`` and for bfloat16.

    Raises:
        ModelError: A tensor is missing or has another shape.
    """
    g = Graph("encoder", precision, NEW_OPSET if attention is AttentionForm.FUSED else None)
    net = _Encoder(g, dims, weights, attention)
    chunks = net.patches()
    for i in range(dims.depth):
        chunks = net.block(chunks, i)
    cells = dims.embedding_cells
    g.output(g.widen(net.neck(chunks)), "embedding", np.float32, [1, dims.neck, cells, cells])
    return g


@dataclass(frozen=True)
class _Attention:
    """Weights of one attention with the queries scaled.

    qkv is [C, 3·C]. rows and columns are [w, head, w]: a query's row (column), its channels, a key's row (column).
    """

    window: int
    qkv: LazyArray
    qkv_bias: Array
    out: LazyArray
    out_bias: Array
    rows: Array
    columns: Array

    @classmethod
    def take(cls, weights: Weights, name: str, dims: VitDims, window: int) -> _Attention:
        c, head = dims.width, dims.width // dims.heads
        scale = 1 / math.sqrt(head)
        qkv, bias = (
            weights.lazy(f"{name}.qkv.weight", 3 * c, c, transposed=True),
            weights.take(f"{name}.qkv.bias", 3 * c),
        )
        gain = np.repeat([scale, 1, 1], c).astype(np.float32)
        out = weights.take(f"{name}.proj.weight", c, c)
        offset = np.arange(window)[:, None] - np.arange(window) + window - 1
        rows, columns = (
            (weights.take(f"{name}.rel_pos_{axis}", 2 * window - 1, head) / scale)[offset].transpose(0, 2, 1)
            for axis in "hw"
        )
        return cls(
            window=window,
            qkv=LazyArray(f"{qkv.name}.scaled", qkv.shape, lambda: qkv.read() * gain),
            qkv_bias=np.concatenate([bias[:c] * scale, np.zeros(2 * c)]),
            out=weights.lazy(f"{name}.proj.weight", c, c, transposed=True),
            out_bias=weights.take(f"{name}.proj.bias", c) + out @ bias[2 * c :],
            rows=rows,
            columns=columns,
        )


class _Encoder:
    """Writes the parts of the network to a graph. Tokens come in chunks of whole rows of positions."""

    def __init__(self, g: Graph, dims: VitDims, weights: Weights, form: AttentionForm) -> None:
        self.g, self.d, self.w, self.form = g, dims, weights, form
        self.side, self.head = dims.embedding_cells, dims.width // dims.heads
        rows = max(1, CHUNK_POSITIONS // self.side) if form is AttentionForm.BIAS else self.side
        self.chunks = [min(rows, self.side - first) * self.side for first in range(0, self.side, rows)]

    def patches(self) -> Sequence[ir.Value]:
        """Embed the image's patches and add their positions."""
        g, d, side, px = self.g, self.d, self.side, self.d.patch_px
        image = g.reshape(photo_input(g, d.input_px, d.pixel_mean), 3, side, px, side, px)
        image = g.reshape(g.op("Transpose", image, perm=[1, 3, 0, 2, 4]), side**2, 3 * px**2)
        weight = self.w.take("encoder.patch.weight", d.width, 3, px, px) / np.reshape(d.pixel_std, (3, 1, 1))
        position = self.w.take("encoder.pos_embed", 1, side, side, d.width).reshape(-1, d.width)
        position = position + self.w.take("encoder.patch.bias", d.width)
        return self._split(g.op("Gemm", image, weight.reshape(d.width, -1).T, position), self.chunks)

    def block(self, chunks: Sequence[ir.Value], number: int) -> Sequence[ir.Value]:
        """Add attention, then two linear layers, to the tokens."""
        g, c, hidden = self.g, self.d.width, self.d.width * self.d.mlp_ratio
        name = f"encoder.blocks.{number}"
        window = self.side if number in self.d.global_blocks else self.d.window
        a = _Attention.take(self.w, f"{name}.attn", self.d, window)
        qkv = [g.op("Gemm", self.norm(x, f"{name}.norm1", c), a.qkv, a.qkv_bias) for x in chunks]
        by_head = self.form is AttentionForm.BIAS and window == self.side
        mixed = self.by_head(qkv, a) if by_head else self._split(self.at_once(self._join(qkv, 0), a), self.chunks)
        out = []
        for x, change in zip(chunks, mixed, strict=True):
            x = g.op("Add", x, g.op("Gemm", change, a.out, a.out_bias))
            y = self.linear(self.norm(x, f"{name}.norm2", c), f"{name}.mlp.lin1", c, hidden)
            out.append(g.op("Add", x, self.linear(g.gelu(y), f"{name}.mlp.lin2", hidden, c)))
        return out

    def neck(self, chunks: Sequence[ir.Value]) -> ir.Value:
        """Make the embedding [1, C, S, S] of tokens."""
        g, c, width = self.g, self.d.neck, self.d.width
        weight = self.w.take("encoder.neck.conv1.weight", c, width, 1, 1).reshape(c, width).T
        x = g.op("MatMul", self._join(chunks, 0), weight)
        x = self._image(self.norm(x, "encoder.neck.norm1", c))
        x = g.op("Conv", x, self.w.take("encoder.neck.conv2.weight", c, c, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
        x = g.reshape(g.op("Transpose", x, perm=[0, 2, 3, 1]), -1, c)
        return self._image(self.norm(x, "encoder.neck.norm2", c))

    def at_once(self, qkv: ir.Value, a: _Attention) -> ir.Value:
        """Apply the attention of all heads at once: [P, 3·C] → [P, C]."""
        q, k, v = (self._to_windows(x, a.window, self.d.heads) for x in self._split(qkv, [self.d.width] * 3, axis=1))
        return self._from_windows(self.attend(q, k, v, a, self.d.heads), a.window, self.d.heads)

    def by_head(self, qkv: Sequence[ir.Value], a: _Attention) -> list[ir.Value]:
        """Apply attention to the whole image, head by head: chunks [·, 3·C] → chunks [·, C]."""
        heads = self.d.heads
        parts = [self._split(x, [self.head] * 3 * heads, axis=1) for x in qkv]
        mixed = []
        for h in range(heads):
            q, k, v = (self._join([part[h + i * heads] for part in parts], 0) for i in range(3))
            mixed.append(self.attend_in_chunks([part[h] for part in parts], q, k, v, a))
        return [self._join(heads_of_chunk, 1) for heads_of_chunk in zip(*mixed, strict=True)]

    def attend(self, q: ir.Value, k: ir.Value, v: ir.Value, a: _Attention, heads: int) -> ir.Value:
        """Apply attention within windows: [W, H, n, head] each → [W, H, n, head]."""
        g, w = self.g, a.window
        places = np.concatenate([np.repeat(np.eye(w), w, 0), np.tile(np.eye(w), (w, 1))], 1)
        places = np.broadcast_to(places, (self._windows(w) ** 2, heads, *places.shape))
        q = g.op("Concat", q, *self.from_places(q, a, heads), axis=-1)
        k = g.op("Concat", k, places, axis=-1)
        if self.form is not AttentionForm.FUSED:
            return g.op("MatMul", g.softmax(g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))), v)
        v = g.op("Pad", v, ints(0, 0, 0, 0, 0, 0, 0, 2 * w))
        # No softmax_precision: TensorRT's parser refuses it, and TensorRT's fused attention sums in float32 anyway.
        return g.op("Slice", g.op("Attention", q, k, v, scale=1.0), ints(0), ints(self.head), ints(3))

    def attend_in_chunks(
        self, queries: Sequence[ir.Value], q: ir.Value, k: ir.Value, v: ir.Value, a: _Attention
    ) -> list[ir.Value]:
        """Apply attention of one head to the whole image. q, k, v are [P, head]; `queries` are the chunks of q."""
        g, side = self.g, self.side
        rows, columns = self.from_places(g.reshape(q, 1, 1, -1, self.head), a, 1)
        row_chunks = self._split(g.reshape(rows, -1, side, 1), self.chunks)
        column_chunks = self._split(g.reshape(columns, -1, 1, side), self.chunks)
        mixed = []
        for query, row, column in zip(queries, row_chunks, column_chunks, strict=True):
            bias = g.reshape(g.op("Add", row, column), -1, side * side)
            # A Gemm adds the bias as it multiplies: 0.37 s of CPU time in all heads of ViT-B, 0.40 s with an Add.
            scores = g.op("Gemm", query, k, bias, transB=1)
            mixed.append(g.op("MatMul", g.softmax(scores), v))
        return mixed

    def from_places(self, q: ir.Value, a: _Attention, heads: int) -> tuple[ir.Value, ir.Value]:
        """Return the terms of a key's row and column in the scores of queries [W, H, n, head]: [W, H, n, w] each."""
        g, w, count = self.g, a.window, self._windows(a.window) ** 2
        grid = g.reshape(q, count, heads, w, w, self.head)
        rows = g.op("MatMul", grid, a.rows)
        columns = g.op("MatMul", g.op("Transpose", grid, perm=[0, 1, 3, 2, 4]), a.columns)
        columns = g.op("Transpose", columns, perm=[0, 1, 3, 2, 4])
        return g.reshape(rows, count, heads, w * w, w), g.reshape(columns, count, heads, w * w, w)

    def linear(self, x: ir.Value, name: str, c_in: int, c_out: int) -> ir.Value:
        """Apply a linear layer: [N, c_in] → [N, c_out]."""
        weight = self.w.lazy(f"{name}.weight", c_out, c_in, transposed=True)
        return self.g.op("Gemm", x, weight, self.w.take(f"{name}.bias", c_out))

    def norm(self, x: ir.Value, name: str, width: int) -> ir.Value:
        """Normalize tokens."""
        scale, bias = (self.w.take(f"{name}.{part}", width) for part in ("weight", "bias"))
        return self.g.layer_norm(x, scale, bias, self.d.norm_eps)

    def _windows(self, window: int) -> int:
        """Count the windows across the image."""
        return ceil_div(self.side, window)

    def _to_windows(self, x: ir.Value, window: int, heads: int) -> ir.Value:
        """Split [P, H·head] into zero-padded windows [W, H, n, head]."""
        g, side, count = self.g, self.side, self._windows(window)
        x = g.reshape(x, side, side, heads * self.head)
        if padding := count * window - side:
            x = g.op("Pad", x, ints(0, 0, 0, padding, padding, 0))
        x = g.reshape(x, count, window, count, window, heads, self.head)
        x = g.op("Transpose", x, perm=[0, 2, 4, 1, 3, 5])
        return g.reshape(x, count**2, heads, window**2, self.head)

    def _from_windows(self, x: ir.Value, window: int, heads: int) -> ir.Value:
        """Join windows [W, H, n, head] to [P, H·head]."""
        g, side, count = self.g, self.side, self._windows(window)
        x = g.reshape(x, count, count, heads, window, window, self.head)
        x = g.op("Transpose", x, perm=[0, 3, 1, 4, 2, 5])
        x = g.reshape(x, count * window, count * window, heads * self.head)
        if side % window:
            x = g.op("Slice", x, ints(0, 0), ints(side, side), ints(0, 1))
        return g.reshape(x, side * side, heads * self.head)

    def _image(self, tokens: ir.Value) -> ir.Value:
        """Make an image [1, C, S, S] of tokens [P, C]."""
        return self.g.op("Transpose", self.g.reshape(tokens, 1, self.side, self.side, -1), perm=[0, 3, 1, 2])

    def _split(self, x: ir.Value, sizes: Sequence[int], axis: int = 0) -> Sequence[ir.Value]:
        return self.g.ops("Split", x, ints(*sizes), num_outputs=len(sizes), axis=axis) if len(sizes) > 1 else [x]

    def _join(self, parts: Sequence[ir.Value], axis: int) -> ir.Value:
        return self.g.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]
