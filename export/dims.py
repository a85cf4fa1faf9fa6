"""Dimensions of the networks that the exporter knows: one record a model, no torch."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDING_STRIDE, MASK_STRIDE = 16, 4  # pixels of the input a cell of the embedding, of the mask grid
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, of 0…255 RGB


@dataclass(frozen=True)
class DecoderDims:
    """Dimensions of SAM's prompt encoder and two-way mask decoder; `inner` is the width of the cross-attentions.

    mask_tokens: masks that the network predicts; the first `dropped_masks` of them are not returned (SAM: its
    single-mask output). points: a prompt, each one token. labelled: the network knows all labels of points, else
    foreground only. no_mask: a vector is added to the embedding where no mask is given as a prompt.
    fine_width: channels of a map of stride 8 that prompts read and masks are drawn with (fine.py); 0: there is none.
    near_px: radii of the bumps around a prompt's point, pixels of the input; with a fine map only.
    """

    input_px: int
    width: int
    inner: int
    heads: int
    mlp: int
    depth: int
    mask_tokens: int
    norm_eps: float
    token_norm_eps: float
    dropped_masks: int = 0
    points: int = 1
    labelled: bool = False
    no_mask: bool = False
    fine_width: int = 0
    near_px: tuple[float, ...] = ()

    @property
    def embedding_cells(self) -> int:
        """Side of the embedding."""
        return self.input_px // EMBEDDING_STRIDE

    @property
    def grid_cells(self) -> int:
        """Side G of the mask grid."""
        return self.input_px // MASK_STRIDE

    @property
    def masks(self) -> int:
        """Masks returned a prompt."""
        return self.mask_tokens - self.dropped_masks

    @property
    def tokens(self) -> int:
        """Tokens a prompt: IoU, masks, points."""
        return 1 + self.mask_tokens + self.points


@dataclass(frozen=True)
class Stage:
    """One stage of EfficientNet-Lite0: `repeats` inverted residual blocks, the first with `stride`."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


@dataclass(frozen=True)
class TinyDims:
    """Dimensions of `tiny`. Sizes in pixels and channels; `inner` is the width of the cross-attentions.

    fine_width, near_px: see `DecoderDims`; fine_blocks: blocks that mix the fine map.
    """

    input_px: int = 512
    stem_channels: int = 32
    stages: tuple[Stage, ...] = (
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(2, 5, 2, 6, 40),
        Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112),
        Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    )
    tap_blocks: tuple[int, int, int] = (4, 10, 15)  # last block of strides 8, 16, 32
    tap_channels: tuple[int, int, int] = (40, 112, 320)
    pixel_mean: float = 127.0  # of the ImageNet training of EfficientNet-Lite0
    pixel_std: float = 128.0
    neck_blocks: int = 2
    width: int = 128
    inner: int = 64
    heads: int = 4
    mlp: int = 512
    depth: int = 2
    masks: int = 3
    norm_eps: float = 1e-6
    token_norm_eps: float = 1e-5
    tap_block4: int = 2  # last block of stride 4, for the fine map
    tap_channels4: int = 24
    fine_width: int = 0
    fine_blocks: int = 2
    near_px: tuple[float, ...] = ()

    @property
    def decoder(self) -> DecoderDims:
        """The decoder's share."""
        return DecoderDims(
            input_px=self.input_px,
            width=self.width,
            inner=self.inner,
            heads=self.heads,
            mlp=self.mlp,
            depth=self.depth,
            mask_tokens=self.masks,
            norm_eps=self.norm_eps,
            token_norm_eps=self.token_norm_eps,
            fine_width=self.fine_width,
            near_px=self.near_px,
        )


@dataclass(frozen=True)
class VitDims:
    """Dimensions of SAM's ViT encoder (Kirillov et al. 2023; ViTDet's windows). Pixels, channels, positions.

    global_blocks: the blocks that attend to the whole image; the others to windows of `window`² positions.
    pixel_mean, pixel_std: of the 0…255 RGB values.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    input_px: int = 1024
    patch_px: int = EMBEDDING_STRIDE
    window: int = 14
    mlp_ratio: int = 4
    neck: int = 256
    norm_eps: float = 1e-6
    pixel_mean: tuple[float, float, float] = SAM_MEAN
    pixel_std: tuple[float, float, float] = SAM_STD

    @property
    def embedding_cells(self) -> int:
        """Side of the embedding."""
        return self.input_px // self.patch_px


TINY = TinyDims()
TINY_FINE = TinyDims(fine_width=64, near_px=(6.0, 14.0, 32.0, 72.0, 160.0))
VIT_B = VitDims(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11))
VIT_L = VitDims(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))
VIT_H = VitDims(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))
SAM_DECODER = DecoderDims(
    input_px=1024,
    width=256,
    inner=128,
    heads=8,
    mlp=2048,
    depth=2,
    mask_tokens=4,
    norm_eps=1e-6,
    token_norm_eps=1e-5,
    dropped_masks=1,
    points=2,
    labelled=True,
    no_mask=True,
)


@dataclass(frozen=True)
class TinyVitStage:
    """One attention stage of TinyViT: a merging of patches with `stride`, then `depth` blocks that attend in windows of
    `window`² positions."""

    width: int
    depth: int
    heads: int
    window: int
    stride: int


@dataclass(frozen=True)
class TinyVitDims:
    """Dimensions of MobileSAM's encoder, TinyViT-5M (Wu et al. 2022; Zhang et al. 2023). Pixels, channels, positions.

    conv_width, conv_depth, conv_expand: the first stage, inverted residuals at stride 4. Unlike TinyViT, MobileSAM
    merges no patches before the last stage. pixel_mean, pixel_std: of the 0…255 RGB values.
    """

    input_px: int = 1024
    conv_width: int = 64
    conv_depth: int = 2
    conv_expand: int = 4
    stages: tuple[TinyVitStage, ...] = (
        TinyVitStage(width=128, depth=2, heads=4, window=7, stride=2),
        TinyVitStage(width=160, depth=6, heads=5, window=14, stride=2),
        TinyVitStage(width=320, depth=2, heads=10, window=7, stride=1),
    )
    mlp_ratio: int = 4
    neck: int = 256
    batch_norm_eps: float = 1e-5
    norm_eps: float = 1e-5
    neck_norm_eps: float = 1e-6
    pixel_mean: tuple[float, float, float] = SAM_MEAN
    pixel_std: tuple[float, float, float] = SAM_STD

    @property
    def embedding_cells(self) -> int:
        """Side of the embedding."""
        return self.input_px // EMBEDDING_STRIDE


VIT_T = TinyVitDims()
