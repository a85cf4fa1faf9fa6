"""Layers of `tiny`; names of their weights are those of the shipped file."""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esam_rt.export.train_tiny.fast_conv import conv2d

Layer = TypeVar("Layer", bound=nn.Module)


class Conv(nn.Module):
    """Convolution with TensorFlow's `SAME` padding (what the ImageNet weights were trained with) and optional ReLU6."""

    def __init__(self, c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in // groups, k, k))
        self.bias = nn.Parameter(torch.zeros(c_out))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        self.stride, self.groups, self.act = stride, groups, act
        before = (k - stride) // 2
        self.pad = (before, k - stride - before, before, k - stride - before)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H / stride, W / stride]."""
        symmetric = self.pad[0] == self.pad[1]
        if not symmetric:
            x = F.pad(x, self.pad)
        x = conv2d(x, self.weight, self.bias, self.stride, self.pad[0] if symmetric else 0, self.groups)
        return F.relu6(x) if self.act else x


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise k×k, project 1×1; residual where shapes allow."""

    def __init__(self, c_in: int, c_out: int, k: int, stride: int, expand: int) -> None:
        super().__init__()
        mid = c_in * expand
        self.expand = Conv(c_in, mid, 1) if expand != 1 else None
        self.depthwise = Conv(mid, mid, k, stride, groups=mid)
        self.project = Conv(mid, c_out, 1, act=False)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C', H / stride, W / stride]."""
        y = self.expand(x) if self.expand is not None else x
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of [N, C, H, W]."""

    def __init__(self, c: int, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(c)), nn.Parameter(torch.zeros(c)), eps

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], normalised."""
        return self.last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def last(self, x: Tensor) -> Tensor:
        """[..., C], normalised over its last axis."""
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Multi-head attention at an inner width; projections are apart so that shared operands are projected once."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(width, inner), nn.Linear(width, inner), nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)
        self.heads = heads
        for layer in (self.q, self.k, self.v, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.k.weight.data = self.q.weight.data.clone()  # similar positions attend to each other from the first step

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B or 1, Tq, C], k and v [B or 1, Tk, C] → [B, Tq, C]; a leading 1 is broadcast after its projection."""
        return self.attend(self.q(q), self.k(k), self.v(v))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `forward`, of operands that have been projected."""

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(q), split(k), split(v)
        scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(2, 3)
        x = scores.softmax(-1) @ v
        out: Tensor = self.out(x.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(widths)])

    def forward(self, x: Tensor) -> Tensor:
        """[..., first width] → [..., last width]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


def zero(layer: Layer) -> Layer:
    """The layer with weights of zero: what it joins begins as if it were not there."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer
