"""Attention between a few tokens and many image positions, with the heads as rows.

A prompt has T tokens and H heads, T·H = 20 to 56 rows, fewer than the inner width of SAM's attentions. So the tokens'
queries are written as T·H rows that are zero outside their head; then plain matrix products with the weights do the
split into heads, nothing is transposed, and W_k, W_v, W_q and W_out multiply those rows instead of the h·w image
positions of every prompt. Only the first layer, whose image side all prompts share, projects the image itself, once.

What a softmax cancels is dropped, and what sums to one is folded: the bias of the keys adds the same to all positions;
the bias of the values passes through the weights of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .graph import Graph
from .weights import Array, Weights


@dataclass(frozen=True)
class Projection:
    """Weight [in, out] and bias [out] of a linear layer."""

    weight: Array
    bias: Array

    @classmethod
    def take(cls, weights: Weights, name: str, width_in: int, width_out: int) -> Projection:
        """`name`.weight [out, in] and `name`.bias [out] of a checkpoint."""
        return cls(weights.take(f"{name}.weight", width_out, width_in).T, weights.take(f"{name}.bias", width_out))

    def scaled(self, factor: float) -> Projection:
        """The layer with its output multiplied by `factor`."""
        return Projection(self.weight * factor, self.bias * factor)

    def __call__(self, g: Graph, x: ir.Value) -> ir.Value:
        """[N, in] → [N, out]."""
        return g.op("Gemm", x, self.weight, self.bias)


class Attention:
    """The four projections of one attention, written to a graph as one of three kinds. B prompts, T tokens, H heads."""

    def __init__(self, g: Graph, weights: Weights, name: str, width: int, inner: int, heads: int, tokens: int) -> None:
        self.g = g
        self.q, self.k, self.v = (Projection.take(weights, f"{name}.{p}", width, inner) for p in "qkv")
        self.out = Projection.take(weights, f"{name}.out", inner, width)
        self.width, self.inner, self.heads, self.rows = width, inner, heads, tokens * heads
        self.scale = 1 / math.sqrt(inner // heads)
        self.own_head = np.repeat(np.eye(heads), inner // heads, axis=1)  # [H, inner]

    def among_tokens(self, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Self-attention: [B·T, C] each → [B·T, C]."""
        g, tokens = self.g, self.rows // self.heads
        rows = g.reshape(self._split(self.q.scaled(self.scale)(g, q)), -1, self.rows, self.inner)
        keys = g.reshape(g.op("MatMul", k, self.k.weight), -1, tokens, self.inner)
        values = g.reshape(g.op("MatMul", v, self.v.weight), -1, tokens, self.inner)
        scores = g.op("MatMul", rows, g.op("Transpose", keys, perm=[0, 2, 1]))
        return self._join(g.op("MatMul", g.op("Softmax", scores, axis=-1), values))

    def from_shared_image(self, q: ir.Value, image: ir.Value, position: Array) -> ir.Value:
        """Tokens [B·T, C] attend to one image [C, h·w] with position encoding [h·w, C] → [B·T, C]."""
        g = self.g
        keys = g.op("Add", g.op("MatMul", self.k.weight.T, image), (position @ self.k.weight).T)
        values = g.op("MatMul", g.op("Transpose", image, perm=[1, 0]), self.v.weight)
        scores = g.op("MatMul", self._split(self.q.scaled(self.scale)(g, q)), keys)
        return self._join(g.op("MatMul", g.op("Softmax", scores, axis=-1), values))

    def from_image(self, q: ir.Value, image: ir.Value, position: Array) -> ir.Value:
        """Tokens [B·T, C] attend to the images of their prompts [B, h·w, C] → [B·T, C]."""
        g = self.g
        scores = self._scores(self._split(self.q.scaled(self.scale)(g, q)), self.k.weight, image, position)
        mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), image)
        return self._join(g.op("MatMul", g.reshape(mixed, -1, self.width), self.v.weight))

    def to_shared_image(self, k: ir.Value, v: ir.Value, image: ir.Value, position: Array) -> ir.Value:
        """One image [C, h·w] attends to the tokens [B·T, C] of every prompt → [B, h·w, C]."""
        g = self.g
        queries = g.op("MatMul", self.q.weight.T, image)
        queries = g.op("Add", queries, (position @ self.q.weight + self.q.bias).T)
        scores = g.op("MatMul", self._split(self.k.scaled(self.scale)(g, k)), queries)
        return self._to_image(g.reshape(scores, -1, self.rows, len(position)), v, len(position))

    def to_image(self, k: ir.Value, v: ir.Value, image: ir.Value, position: Array) -> ir.Value:
        """The images [B, h·w, C] attend to the tokens [B·T, C] of their prompts → [B, h·w, C]."""
        rows = self._split(self.k.scaled(self.scale)(self.g, k))
        return self._to_image(self._scores(rows, self.q.weight, image, position, self.q.bias), v, len(position))

    def _split(self, x: ir.Value) -> ir.Value:
        """[B·T, inner] → [B·T·H, inner], each row zero outside its head."""
        return self.g.reshape(self.g.op("Mul", self.g.reshape(x, -1, 1, self.inner), self.own_head), -1, self.inner)

    def _join(self, rows: ir.Value) -> ir.Value:
        """Values [B·T·H, inner], of which a row counts inside its head only → output projection [B·T, C]."""
        own = self.g.op("Mul", self.g.reshape(rows, -1, self.heads, self.inner), self.own_head)
        out = Projection(self.out.weight, self.v.bias @ self.out.weight + self.out.bias)
        return out(self.g, self.g.op("ReduceSum", own, np.array([1]), keepdims=0))

    def _scores(
        self, rows: ir.Value, weight: Array, image: ir.Value, position: Array, bias: Array | float = 0.0
    ) -> ir.Value:
        """Token rows [B·T·H, inner] times the image side (image + position) · weight + bias → [B, T·H, h·w]."""
        g = self.g
        folded = g.reshape(g.op("MatMul", rows, weight.T), -1, self.rows, self.width)
        content = g.op("MatMul", folded, g.op("Transpose", image, perm=[0, 2, 1]))
        place = g.op("MatMul", rows, (position @ weight + bias).T)
        return g.op("Add", content, g.reshape(place, -1, self.rows, len(position)))

    def _to_image(self, scores: ir.Value, v: ir.Value, positions: int) -> ir.Value:
        """Scores [B, T·H, h·w], normalised over T, times the tokens' values [B·T, C] → [B, h·w, C]."""
        g, tokens = self.g, self.rows // self.heads
        scores = g.reshape(scores, -1, tokens, self.heads * positions)
        # ONNX Runtime transposes for a Softmax that is not over the last axis.
        weights = g.op("Exp", g.op("Sub", scores, g.op("ReduceMax", scores, np.array([1]))))
        weights = g.op("Div", weights, g.op("ReduceSum", weights, np.array([1])))
        weights = g.reshape(weights, -1, self.rows, positions)
        values = g.op("MatMul", self._split(self.v(g, v)), self.out.weight)
        values = g.op("Add", values, self.out.bias / self.heads)  # the weights of each head sum to one
        values = g.reshape(values, -1, self.rows, self.width)
        return g.op("MatMul", g.op("Transpose", weights, perm=[0, 2, 1]), values)
