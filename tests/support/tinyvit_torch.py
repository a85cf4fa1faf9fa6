"""MobileSAM's image encoder in PyTorch, after the papers of TinyViT (Wu et al. 2022) and MobileSAM (Zhang et al. 2023).

An oracle for the exporter, written apart from it: plain modules with MobileSAM's names of tensors, so that the
`state_dict` has the names and shapes of `image_encoder.*` of its checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
STRIDES = (2, 2, 1)  # of the merging after each stage; the classifier that TinyViT is has 2 for the last
NECK, CLASSES = 256, 1000
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class ConvNorm(nn.Sequential):
    """Convolution without bias, `c`, and batch norm, `bn`."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out)


class PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class InvertedResidual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.conv1 = ConvNorm(width, hidden, 1)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width, 1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv3(self.act(self.conv2(self.act(self.conv1(x))))))


class Merging(nn.Module):
    def __init__(self, width: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, width_out, 1)
        self.conv2 = ConvNorm(width_out, width_out, 3, stride, groups=width_out)
        self.conv3 = ConvNorm(width_out, width_out, 1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))


class Attention(nn.Module):
    """Of the positions of one window to each other; its bias depends on how far apart they are along each axis."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window**2))

    def bias(self) -> Tensor:
        """[heads, N, N] of N = window² positions, row by row."""
        y, x = torch.arange(self.window**2) // self.window, torch.arange(self.window**2) % self.window
        dy, dx = (y[:, None] - y).abs(), (x[:, None] - x).abs()
        return self.attention_biases[:, dy * self.window + dx]

    def forward(self, x: Tensor) -> Tensor:
        """[windows, N, C] → the same."""
        heads = self.qkv(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=-1)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + self.bias()).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(x))))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width)
        self.window = window

    def attend(self, x: Tensor) -> Tensor:
        """Image [1, H, W, C], in windows; those that reach beyond its end are filled with zeros."""
        n = self.window
        corners = [(y, left) for y in range(0, x.shape[1], n) for left in range(0, x.shape[2], n)]
        windows = x.new_zeros(len(corners), n, n, x.shape[3])
        for window, (y, left) in zip(windows, corners, strict=True):
            part = x[0, y : y + n, left : left + n]
            window[: part.shape[0], : part.shape[1]] = part
        windows = self.attn(windows.flatten(1, 2)).unflatten(1, (n, n))
        out = torch.empty_like(x)
        for window, (y, left) in zip(windows, corners, strict=True):
            part = out[0, y : y + n, left : left + n]
            part.copy_(window[: part.shape[0], : part.shape[1]])
        return out

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, H, W] → the same."""
        x = x.permute(0, 2, 3, 1)
        x = (x + self.attend(x)).permute(0, 3, 1, 2)
        x = self.local_conv(x).permute(0, 2, 3, 1)
        return (x + self.mlp(x)).permute(0, 3, 1, 2)


class Layer(nn.Module):
    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [1, C, H, W]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TinyVit(nn.Module):
    """Image float [1, 3, S, S], normalised, zeros outside the photo → embedding [1, 256, S/16, S/16]."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(WIDTHS[0])
        layers = []
        for i, (width, depth, heads, window) in enumerate(zip(WIDTHS, DEPTHS, HEADS, WINDOWS, strict=True)):
            blocks = [Block(width, heads, window) if i else InvertedResidual(width) for _ in range(depth)]
            layers.append(Layer(blocks, Merging(width, WIDTHS[i + 1], STRIDES[i]) if i < 3 else None))
        self.layers = nn.ModuleList(layers)
        # The classifier that the encoder began as: in the checkpoint, not in use.
        self.norm_head, self.head = nn.LayerNorm(WIDTHS[-1]), nn.Linear(WIDTHS[-1], CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], NECK, 1, bias=False),
            ChannelNorm(NECK),
            nn.Conv2d(NECK, NECK, 3, padding=1, bias=False),
            ChannelNorm(NECK),
        )

    def trunk(self, x: Tensor) -> Tensor:
        """[1, 3, S, S] → [1, C, S/16, S/16] before the neck."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.neck(self.trunk(x))


def normalised(image: Tensor, valid_hw_px: tuple[int, int]) -> Tensor:
    """uint8 [1, S, S, 3] RGB → the network's input."""
    x = (image.float() - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    x[:, valid_hw_px[0] :], x[:, :, valid_hw_px[1] :] = 0, 0
    return x.permute(0, 3, 1, 2)
