"""SAM's prompt encoder and two-way mask decoder (Kirillov et al. 2023, appendix A) for batches of single points.

The embedding is never repeated: see attention.py. Masks are upscaled only for prompts that pass the score filter, only
where the photo is, and leave the graph as bits.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from .attention import Attention, Projection
from .dims import DecoderDims
from .graph import Graph, ints
from .packing import packed_masks
from .weights import Array, Weights

SUBCELLS = 4  # of a transposed convolution with kernel = stride = 2


def build_decoder(dims: DecoderDims, weights: Weights) -> Graph:
    """Points → scores, and bit-packed masks of the prompts that pass the filter.

    Inputs: `embedding` float32 [1, C, h, w]; `points_xy_px` float32 [B, 2], pixels of the square input; `valid_hw`
    int64 [2], rows and columns of the G×G mask grid that are photo (1…G); `score_min` and `stability_offset` (≥ 0)
    float32 scalars.
    Outputs: `score` float32 [B, 3]; `index` int64 [M], ascending, prompts with a score ≥ score_min; for these
    `stability` float32 [M, 3], `area` int32 [M, 3], `box_xyxy` int32 [M, 3, 4], `bits` uint8 [M, 3, G, G/8], bit i of
    byte j = cell 8j + i of a row.
    """
    g = Graph("decoder")
    net = _Decoder(g, dims, weights)
    valid_hw = g.input("valid_hw", np.int64, [2])
    score_min = g.input("score_min", np.float32, [])
    offset = g.input("stability_offset", np.float32, [])
    tokens, image = net.transformer()
    score = net.score(tokens)
    best = g.op("ReduceMax", score, ints(1), keepdims=0)
    index = g.op("Squeeze", g.op("NonZero", g.op("GreaterOrEqual", best, score_min)), ints(0))
    # Whole cells of the embedding that hold photo: a quarter less to upscale for a 4:3 photo. An even number of
    # columns, since a byte spans two.
    cells = dims.embedding_cells
    rows, pairs = _ceil_div(g, valid_hw, 0, 4), _ceil_div(g, valid_hw, 1, 8)
    end = g.op("Concat", rows, g.op("Mul", pairs, ints(2)), axis=0)
    photo = g.op("Slice", np.arange(cells * cells).reshape(cells, cells), ints(0, 0), end, ints(0, 1))
    first = g.op("Unsqueeze", g.op("Mul", index, cells * cells), ints(1, 2))
    image = g.op("Gather", g.reshape(image, -1, dims.width), g.op("Add", first, photo), axis=0)
    hyper = net.mask_weights(g.op("Gather", tokens, index, axis=0))
    kept, quarters = g.op("Shape", index), g.op("Mul", g.op("Mul", rows, pairs), ints(2 * SUBCELLS))
    logits = net.logits(image, hyper, kept, quarters, dims.masks)
    n, grid = dims.masks, dims.grid_cells
    stability, area, box, bits = packed_masks(g, logits, valid_hw, kept, rows, pairs, offset, grid, n)
    g.output(score, "score", np.float32, ["B", n])
    g.output(index, "index", np.int64, ["M"])
    g.output(stability, "stability", np.float32, ["M", n])
    g.output(area, "area", np.int32, ["M", n])
    g.output(box, "box_xyxy", np.int32, ["M", n, 4])
    g.output(bits, "bits", np.uint8, ["M", n, grid, grid // 8])
    return g


def build_logits(dims: DecoderDims, weights: Weights) -> Graph:
    """Points and levels → logits of one mask each.

    Inputs: `embedding` float32 [1, C, h, w]; `points_xy_px` float32 [B, 2]; `level` int64 [B], which of the model's
    outputs. Output: `logits` float32 [B, G, G].
    """
    g = Graph("logits")
    net = _Decoder(g, dims, weights)
    level = g.input("level", np.int64, ["B"])
    tokens, image = net.transformer()
    hyper = net.mask_weights(tokens)
    hyper = g.op("GatherND", hyper, g.op("Unsqueeze", level, ints(1)), batch_dims=1)
    cells, grid = dims.embedding_cells, dims.grid_cells
    logits = net.logits(image, g.op("Unsqueeze", hyper, ints(1)), -1, cells * cells * SUBCELLS, 1)
    logits = g.reshape(logits, -1, cells, cells, 2, 2, 2, 2)
    logits = g.reshape(g.op("Transpose", logits, perm=[0, 1, 3, 5, 2, 4, 6]), -1, grid, grid)
    g.output(logits, "logits", np.float32, ["B", grid, grid])
    return g


def _ceil_div(g: Graph, extents: ir.Value, axis: int, divisor: int) -> ir.Value:
    """ceil(extents[axis] / divisor) as int64 [1]."""
    extent = g.op("Slice", extents, ints(axis), ints(axis + 1))
    return g.op("Div", g.op("Add", extent, ints(divisor - 1)), ints(divisor))


class _Decoder:
    """The network's parts, written to a graph. B prompts, T tokens each, P = h·w positions, C channels."""

    def __init__(self, g: Graph, dims: DecoderDims, weights: Weights) -> None:
        self.g, self.d, self.w = g, dims, weights
        cells = dims.embedding_cells
        self.embedding = g.input("embedding", np.float32, [1, dims.width, cells, cells])
        self.points = g.input("points_xy_px", np.float32, ["B", 2])

    def transformer(self) -> tuple[ir.Value, ir.Value]:
        """Tokens [B, T, C] and images [B, P, C] after the two-way transformer."""
        g, d = self.g, self.d
        frequencies = self.w.take("decoder.pe_gaussian", 2, d.width // 2) * 2 * math.pi
        centres = (np.arange(d.embedding_cells) + 0.5) / d.embedding_cells * 2 - 1
        xy = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
        position = np.concatenate([np.sin(xy @ frequencies), np.cos(xy @ frequencies)], 1)
        pe = self._tokens(frequencies)
        shared = g.reshape(self.embedding, d.width, len(position))
        if d.no_mask:
            shared = g.op("Add", shared, self.w.take("decoder.no_mask", d.width)[:, None])
        image = g.op("Transpose", shared, perm=[1, 0])
        tokens = pe
        for i in range(d.depth):
            first, layer = i == 0, f"decoder.layers.{i}"
            own = self._attention(f"{layer}.self_attn", d.width)
            read = self._attention(f"{layer}.token_to_image", d.inner)
            write = self._attention(f"{layer}.image_to_token", d.inner)
            if first:
                tokens = own.among_tokens(tokens, tokens, tokens)
            else:
                q = g.op("Add", tokens, pe)
                tokens = g.op("Add", tokens, own.among_tokens(q, q, tokens))
            tokens = self._norm(tokens, f"{layer}.norm1")
            q = g.op("Add", tokens, pe)
            seen = read.from_shared_image(q, shared, position) if first else read.from_image(q, image, position)
            tokens = self._norm(g.op("Add", tokens, seen), f"{layer}.norm2")
            change = self._mlp(tokens, f"{layer}.mlp", d.width, d.mlp, d.width)
            tokens = self._norm(g.op("Add", tokens, change), f"{layer}.norm3")
            k = g.op("Add", tokens, pe)
            change = (
                write.to_shared_image(k, tokens, shared, position)
                if first
                else write.to_image(k, tokens, image, position)
            )
            image = self._norm(g.op("Add", change, image), f"{layer}.norm4")
        last = self._attention("decoder.final_attn", d.inner)
        tokens = g.op("Add", tokens, last.from_image(g.op("Add", tokens, pe), image, position))
        return g.reshape(self._norm(tokens, "decoder.final_norm"), -1, d.tokens, d.width), image

    def score(self, tokens: ir.Value) -> ir.Value:
        """Tokens [B, T, C] → predicted IoU [B, masks]."""
        g, d = self.g, self.d
        iou_token = g.op("Gather", tokens, 0, axis=1)
        score = self._mlp(iou_token, "decoder.iou_head", d.width, d.width, d.width, d.mask_tokens)
        if d.dropped_masks:
            score = g.op("Slice", score, ints(d.dropped_masks), ints(d.mask_tokens), ints(1))
        return score

    def mask_weights(self, tokens: ir.Value) -> ir.Value:
        """Tokens [M, T, C] → weights of the upscaled channels, one row a mask [M, masks, C/8]."""
        g, d = self.g, self.d
        c = d.width
        widths = (c, c, c, c // 8)
        heads = [
            [Projection.take(self.w, f"decoder.hyper.{m}.layers.{i}", widths[i], widths[i + 1]) for i in range(3)]
            for m in range(d.mask_tokens)
        ][d.dropped_masks :]
        x = g.op("Slice", tokens, ints(1 + d.dropped_masks), ints(1 + d.mask_tokens), ints(1))
        x = g.op("Transpose", x, perm=[1, 0, 2])
        for i in range(3):
            x = g.op("MatMul", x, np.stack([head[i].weight for head in heads]))
            x = g.op("Add", x, np.stack([head[i].bias for head in heads])[:, None])
            x = g.op("Relu", x) if i < 2 else x
        return g.op("Transpose", x, perm=[1, 0, 2])

    def logits(
        self, image: ir.Value, hyper: ir.Value, prompts: int | ir.Value, quarters: int | ir.Value, masks: int
    ) -> ir.Value:
        """Images [M, …, C] and mask weights [M, masks, C/8] → logits [M, quarters, 4 · masks]; M = `prompts`, and
        `quarters` is four times the cells of an image.

        A transposed convolution with kernel = stride = 2 is a product with [in, 4 · out]; its rearrangement to pixels
        waits until only the masks are left of the channels. Order: cell, its 4 quarters, their 4 quarters, masks.
        """
        g, d = self.g, self.d
        c4, c8 = d.width // 4, d.width // 8
        x = self._upscale(g.reshape(image, -1, d.width), "decoder.up1", d.width, c4)
        scale, bias = self.w.take("decoder.up_norm.weight", c4), self.w.take("decoder.up_norm.bias", c4)
        x = g.op("LayerNormalization", g.reshape(x, -1, c4), scale, bias, epsilon=d.norm_eps, axis=-1)
        x = self._gelu(self._upscale(self._gelu(x), "decoder.up2", c4, c8))
        x = g.reshape(x, prompts, quarters, SUBCELLS * c8)
        # Four quarters a row: a product four times as wide as [C/8, masks].
        spread = g.op("Unsqueeze", g.op("Transpose", hyper, perm=[0, 2, 1]), ints(1, 3))
        spread = g.op("Mul", spread, np.eye(SUBCELLS)[:, None, :, None])
        return g.op("MatMul", x, g.reshape(spread, -1, SUBCELLS * c8, SUBCELLS * masks))

    def _tokens(self, frequencies: Array) -> ir.Value:
        """Tokens as they enter, which are also their position encodings [B·T, C]: IoU, masks, point, padding."""
        g, d = self.g, self.d
        fixed = [
            self.w.take("decoder.iou_token", 1, d.width),
            self.w.take("decoder.mask_tokens", d.mask_tokens, d.width),
            self.w.take("decoder.foreground", d.width)[None],
        ]
        if d.padding_point:
            fixed.append(self.w.take("decoder.not_a_point", d.width)[None])
        x = g.op("Mul", g.op("Add", self.points, 0.5), 2 / d.input_px)
        angle = g.op("MatMul", g.op("Sub", x, 1.0), frequencies)
        place = g.op("Concat", g.op("Sin", angle), g.op("Cos", angle), axis=-1)
        is_point = np.eye(d.tokens)[1 + d.mask_tokens][:, None]
        place = g.op("Mul", g.op("Unsqueeze", place, ints(1)), is_point)
        return g.reshape(g.op("Add", place, np.concatenate(fixed)), -1, d.width)

    def _attention(self, name: str, inner: int) -> Attention:
        return Attention(self.g, self.w, name, self.d.width, inner, self.d.heads, self.d.tokens)

    def _norm(self, x: ir.Value, name: str) -> ir.Value:
        scale, bias = (self.w.take(f"{name}.{p}", self.d.width) for p in ("weight", "bias"))
        return self.g.op("LayerNormalization", x, scale, bias, epsilon=self.d.token_norm_eps, axis=-1)

    def _mlp(self, x: ir.Value, name: str, *widths: int) -> ir.Value:
        """Linear layers with ReLU between, [N, widths[0]] → [N, widths[-1]]."""
        for i in range(len(widths) - 1):
            x = self.g.op("Relu", x) if i else x
            x = Projection.take(self.w, f"{name}.layers.{i}", widths[i], widths[i + 1])(self.g, x)
        return x

    def _upscale(self, x: ir.Value, name: str, c_in: int, c_out: int) -> ir.Value:
        """Transposed convolution, kernel = stride = 2, positions apart: [N, c_in] → [N, 4 · c_out]."""
        weight = self.w.take(f"{name}.weight", c_in, c_out, 2, 2).transpose(0, 2, 3, 1).reshape(c_in, SUBCELLS * c_out)
        bias = np.tile(self.w.take(f"{name}.bias", c_out), SUBCELLS)
        return self.g.op("Gemm", x, weight, bias)

    def _gelu(self, x: ir.Value) -> ir.Value:
        """x/2 · (1 + erf(x/√2)), in the form that ONNX Runtime fuses (Gelu itself is opset 20)."""
        g = self.g
        erf = g.op("Erf", g.op("Div", x, math.sqrt(2)))
        return g.op("Mul", g.op("Mul", x, g.op("Add", erf, 1.0)), 0.5)
