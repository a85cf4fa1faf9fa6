"""The fine map of `tiny` in PyTorch; `graphs/fine_map.py` says what each part is for."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esam_rt.export.configs import TinyDims
from esam_rt.export.graphs.fine_map import FINE_STRIDE
from esam_rt.export.train_tiny.layers import Conv, InvertedResidual, LayerNorm2d, zero


class FineNeck(nn.Module):
    """Strides 4, 8 and the neck of stride 16 joined at stride 8: [N, F, S/8, S/8]."""

    def __init__(self, d: TinyDims) -> None:
        super().__init__()
        f = d.fine_width
        self.from4 = Conv(d.tap_channels4, f, 4, 2, act=False)
        self.from8 = Conv(d.tap_channels[0], f, 1, act=False)
        self.from16 = Conv(d.width, f, 1, act=False)
        self.mix = nn.ModuleList([InvertedResidual(f, f, 5, 1, 2) for _ in range(d.fine_blocks)])
        self.norm = LayerNorm2d(f, d.norm_eps)

    def forward(self, tap4: Tensor, tap8: Tensor, x16: Tensor) -> Tensor:
        """Taps of strides 4 and 8, the neck before its norm."""
        low = F.interpolate(self.from16(x16), scale_factor=2.0, mode="nearest")
        x = self.from4(tap4) + self.from8(tap8) + low
        for block in self.mix:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class Around(NamedTuple):
    """The fine map's part in the two-way blocks. keys, values [1, 4P, inner]: of the first look at the image. bumps
    [B, P, 4 · radii]: see `graphs/fine_map.py`."""

    keys: Tensor
    values: Tensor
    bumps: Tensor


class FineSide(nn.Module):
    """The decoder's part of the fine map; `graphs/fine_map.py` says what each is for."""

    def __init__(self, d: TinyDims) -> None:
        super().__init__()
        self.radii = d.near_px
        self.keys = zero(nn.Linear(d.fine_width, d.inner, bias=False))
        self.values = zero(nn.Linear(d.fine_width, d.inner, bias=False))
        self.local = zero(nn.Linear(d.fine_width, d.width, bias=False))
        self.detail = zero(nn.Conv2d(d.fine_width, d.width, 2, 2, bias=False))

    def at_points(self, fine: Tensor, points_xy_px: Tensor) -> Tensor:
        """Features of the cells that hold the points: fine [F, h, w], points [B, 2] → [B, C]."""
        limit = torch.tensor([fine.shape[2], fine.shape[1]], device=fine.device) - 1
        x, y = ((points_xy_px + 0.5) / FINE_STRIDE).floor().long().clamp(min=0).minimum(limit).unbind(1)
        out: Tensor = self.local(fine[:, y, x].T)
        return out

    def bumps(self, points_xy_px: Tensor, h: int, w: int) -> Tensor:
        """Points [B, 2] → [B, h · w, 4 · radii], for each quarter of a position of the embedding."""
        radii = torch.tensor(self.radii, device=points_xy_px.device)

        def factor(place: Tensor, cells: int) -> Tensor:
            center = (torch.arange(2 * cells, device=place.device) + 0.5) * FINE_STRIDE
            distance = (center[None, :, None] - place[:, None, None] - 0.5) / radii
            return torch.exp(-0.5 * distance.square()).unflatten(1, (cells, 2))

        rows, columns = factor(points_xy_px[:, 1], h), factor(points_xy_px[:, 0], w)
        grid = rows[:, :, None, :, None] * columns[:, None, :, None, :]  # [B, h, w, 2, 2, radii]
        return grid.flatten(3).flatten(1, 2)
