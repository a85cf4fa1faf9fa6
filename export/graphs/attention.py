"""Attention between a few tokens and many image positions.

A prompt has T tokens and H heads. T·H is 20 to 56 rows, fewer than the inner width of SAM's attentions. Therefore W_k,
W_v, W_q and W_out multiply the tokens, head by head, instead of the P = h·w image positions of every prompt. Only the
first layer projects the image itself, once per image, because all prompts share it (``add_image_features``).

The bias of the keys is dropped: it adds the same to all positions, and softmax cancels it. The bias of the values is
folded into the output's bias: the attention weights sum to one.

Layouts: ``[B·T, C]`` tokens; ``[H, B·T, n]`` by head, for few and large products with data that all prompts share;
``[B, H·T, n]`` by prompt, for products with a prompt's own image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from esam_rt.export.checkpoints.weights import Array, Weights
from esam_rt.export.graphs.graph import Graph, ints

Writer: TypeAlias = Callable[[ir.Value, ir.Value], tuple[ir.Value, ir.Value]]
"""Appends rows to weights [B, rows, P] and values [B, rows, C], whose product is written to the image."""


@dataclass(frozen=True)
class Projection:
    """A linear layer.

    Attributes:
        weight: [in, out].
        bias: [out].
    """

    weight: Array
    bias: Array

    @classmethod
    def take(cls, weights: Weights, name: str, width_in: int, width_out: int) -> Projection:
        """Take a linear layer from a checkpoint.

        Args:
            weights: The checkpoint's tensors, with ``<name>.weight`` [out, in] and ``<name>.bias`` [out].
            name: The layer's name.
            width_in: Input channels.
            width_out: Output channels.

        Returns:
            The layer.

        Raises:
            ModelError: A tensor is missing or has another shape.
        """
        return cls(weights.take(f"{name}.weight", width_out, width_in).T, weights.take(f"{name}.bias", width_out))

    def scaled(self, factor: float) -> Projection:
        """Return the layer with its output multiplied by a factor."""
        return Projection(self.weight * factor, self.bias * factor)

    def __call__(self, g: Graph, x: ir.Value) -> ir.Value:
        """Apply the layer in a graph: [N, in] → [N, out]."""
        return g.op("Gemm", x, self.weight, self.bias)


@dataclass(frozen=True)
class AttentionWeights:
    """The four projections of one attention.

    Attributes:
        q: Queries, [C, inner].
        k: Keys, [C, inner].
        v: Values, [C, inner].
        out: Output, [inner, C].
        heads: Heads H. Each has ``head`` = inner / H channels.
    """

    q: Projection
    k: Projection
    v: Projection
    out: Projection
    heads: int

    @classmethod
    def take(cls, weights: Weights, name: str, width: int, inner: int, heads: int) -> AttentionWeights:
        """Take an attention from a checkpoint.

        Args:
            weights: The checkpoint's tensors, with the layers ``q``, ``k``, ``v`` and ``out`` under the name.
            name: The attention's name.
            width: Channels C of tokens and image.
            inner: Channels of all heads.
            heads: Heads.

        Returns:
            The projections.

        Raises:
            ModelError: A tensor is missing or has another shape.
        """
        q, k, v = (Projection.take(weights, f"{name}.{p}", width, inner) for p in "qkv")
        return cls(q, k, v, Projection.take(weights, f"{name}.out", inner, width), heads)

    @property
    def width(self) -> int:
        """Channels C of tokens and image."""
        return int(self.q.weight.shape[0])

    @property
    def head(self) -> int:
        """Channels of one head."""
        return int(self.q.weight.shape[1]) // self.heads

    @property
    def scale(self) -> float:
        """Scale of the scores, 1/√head."""
        return 1 / math.sqrt(self.head)

    def columns(self, x: Array) -> Array:
        """Split columns by head: [n, inner] → [H, n, head]."""
        return x.reshape(len(x), self.heads, self.head).transpose(1, 0, 2)

    def keys_of(self, g: Graph, image: ir.Value, position: Array) -> ir.Value:
        """Make keys [H, head, P] of an image [C, P] with position encoding [P, C]."""
        keys = g.op("Add", g.op("MatMul", self.k.weight.T, image), (position @ self.k.weight).T)
        return g.reshape(keys, self.heads, self.head, len(position))

    def values_of(self, g: Graph, image: ir.Value) -> ir.Value:
        """Make values [H, P, head], without their bias, of an image [C, P]."""
        values = g.reshape(g.op("MatMul", self.v.weight.T, image), self.heads, self.head, -1)
        return g.op("Transpose", values, perm=[0, 2, 1])

    def queries_of(self, g: Graph, image: ir.Value, position: Array) -> ir.Value:
        """Make queries [H, head, P] of an image [C, P] with position encoding [P, C]."""
        queries = g.op("MatMul", self.q.weight.T, image)
        queries = g.op("Add", queries, (position @ self.q.weight + self.q.bias).T)
        return g.reshape(queries, self.heads, self.head, len(position))


class TokenAttention:
    """Writes one attention of B prompts to a graph, as one of five kinds.

    Args:
        g: The graph.
        weights: The attention's projections.
        tokens: Tokens T per prompt.
    """

    def __init__(self, g: Graph, weights: AttentionWeights, tokens: int) -> None:
        self.g, self.w, self.tokens, self.rows = g, weights, tokens, weights.heads * tokens

    def among_tokens(self, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Apply self-attention of each prompt's tokens: [B·T, C] each → [B·T, C]."""
        g, w = self.g, self.w

        def heads(x: ir.Value, *perm: int) -> ir.Value:
            return g.op("Transpose", g.reshape(x, -1, self.tokens, w.heads, w.head), perm=perm)

        keys = heads(g.op("MatMul", k, w.k.weight), 0, 2, 3, 1)
        scores = g.op("MatMul", heads(w.q.scaled(w.scale)(g, q), 0, 2, 1, 3), keys)
        mixed = g.op("MatMul", g.softmax(scores), heads(g.op("MatMul", v, w.v.weight), 0, 2, 1, 3))
        mixed = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return self._project(g.reshape(mixed, -1, w.heads * w.head))

    def from_shared_image(self, q: ir.Value, keys: ir.Value, values: ir.Value) -> ir.Value:
        """Let all tokens attend to the same image.

        Args:
            q: Tokens [B·T, C].
            keys: The image's keys [H, head, P].
            values: The image's values [H, P, head].

        Returns:
            Tokens [B·T, C].
        """
        g = self.g
        weights = g.softmax(g.op("MatMul", self._by_head(self.w.q.scaled(self.w.scale)(g, q)), keys))
        return self._join(g.op("MatMul", weights, values))

    def from_image(self, q: ir.Value, image: ir.Value, position: Array) -> ir.Value:
        """Let tokens attend to the images of their prompts.

        Args:
            q: Tokens [B·T, C].
            image: One image per prompt [B, P, C].
            position: Position encoding [P, C].

        Returns:
            Tokens [B·T, C].
        """
        g, w = self.g, self.w
        queries = self._by_head(w.q.scaled(w.scale)(g, q))
        weights = g.softmax(self._scores(queries, w.k.weight, image, position @ w.k.weight))
        mixed = g.reshape(g.op("MatMul", weights, image), -1, w.heads, self.tokens, w.width)
        mixed = g.reshape(g.op("Transpose", mixed, perm=[1, 0, 2, 3]), w.heads, -1, w.width)
        return self._join(g.op("MatMul", mixed, w.columns(w.v.weight)))

    def to_shared_image(
        self, k: ir.Value, v: ir.Value, queries: ir.Value, positions: int, more: Writer | None = None
    ) -> ir.Value:
        """Let one image attend to the tokens of every prompt.

        Args:
            k: Tokens with position [B·T, C], for keys.
            v: Tokens [B·T, C], for values.
            queries: The image's queries [H, head, P].
            positions: P.
            more: Appends rows to what is written to the image.

        Returns:
            One change of the image per prompt [B, P, C].
        """
        g = self.g
        scores = g.op("MatMul", self._by_head(self.w.k.scaled(self.w.scale)(g, k)), queries)
        return self._to_image(self._by_prompt(scores, positions), v, positions, more)

    def to_image(
        self, k: ir.Value, v: ir.Value, image: ir.Value, position: Array, more: Writer | None = None
    ) -> ir.Value:
        """Let images attend to the tokens of their prompts.

        Args:
            k: Tokens with position [B·T, C], for keys.
            v: Tokens [B·T, C], for values.
            image: One image per prompt [B, P, C].
            position: Position encoding [P, C].
            more: Appends rows to what is written to the image.

        Returns:
            One change of the image per prompt [B, P, C].
        """
        w = self.w
        keys = self._by_head(w.k.scaled(w.scale)(self.g, k))
        place = position @ w.q.weight + w.q.bias
        return self._to_image(self._scores(keys, w.q.weight, image, place), v, len(position), more)

    def _by_head(self, x: ir.Value) -> ir.Value:
        """Group by head: [B·T, inner] → [H, B·T, head]."""
        return self.g.op("Transpose", self.g.reshape(x, -1, self.w.heads, self.w.head), perm=[1, 0, 2])

    def _by_prompt(self, x: ir.Value, width: int) -> ir.Value:
        """Group by prompt: [H, B·T, width] → [B, H·T, width]."""
        x = self.g.reshape(x, self.w.heads, -1, self.tokens, width)
        return self.g.reshape(self.g.op("Transpose", x, perm=[1, 0, 2, 3]), -1, self.rows, width)

    def _join(self, mixed: ir.Value) -> ir.Value:
        """Join heads [H, B·T, head] and project: [B·T, C]."""
        mixed = self.g.op("Transpose", mixed, perm=[1, 0, 2])
        return self._project(self.g.reshape(mixed, -1, self.w.heads * self.w.head))

    def _project(self, mixed: ir.Value) -> ir.Value:
        """Apply the output projection [B·T, inner] → [B·T, C], with the bias of the values folded in."""
        out = self.w.out
        return Projection(out.weight, self.w.v.bias @ out.weight + out.bias)(self.g, mixed)

    def _scores(self, rows: ir.Value, weight: Array, image: ir.Value, place: Array) -> ir.Value:
        """Multiply rows [H, B·T, head] of the tokens by image · weight + place [P, inner]: [B, H·T, P]."""
        g, w = self.g, self.w
        folded = g.op("MatMul", rows, w.columns(weight).transpose(0, 2, 1))
        folded = self._by_prompt(folded, len(weight))
        content = g.op("MatMul", folded, g.op("Transpose", image, perm=[0, 2, 1]))
        from_place = g.op("MatMul", rows, w.columns(place).transpose(0, 2, 1))
        return g.op("Add", content, self._by_prompt(from_place, len(place)))

    def _to_image(self, scores: ir.Value, v: ir.Value, positions: int, more: Writer | None) -> ir.Value:
        """Normalize scores [B, H·T, P] over T and multiply the values of tokens [B·T, C]: [B, P, C]."""
        g, w = self.g, self.w
        scores = g.reshape(g.widen(scores), -1, w.heads, self.tokens, positions)
        # Not a Softmax: ONNX Runtime would transpose, because T is not the last axis.
        weights = g.op("Exp", g.op("Sub", scores, g.op("ReduceMax", scores, ints(2))))
        weights = g.narrow(g.op("Div", weights, g.op("ReduceSum", weights, ints(2))))
        weights = g.reshape(weights, -1, self.rows, positions)
        # The weights of each head sum to one. Therefore the output's bias can be added to the values, in equal shares
        # per head.
        share = w.out.bias / w.heads
        values = g.op("MatMul", self._by_head(w.v(g, v)), w.out.weight.reshape(w.heads, w.head, -1))
        values = self._by_prompt(g.op("Add", values, share), len(w.out.bias))
        if more is not None:
            weights, values = more(weights, values)
        return g.op("MatMul", g.op("Transpose", weights, perm=[0, 2, 1]), values)
