"""Sizes of the networks that the exporter knows: one record per network."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDING_STRIDE, MASK_STRIDE = 16, 4  # input pixels per cell of the embedding, per cell of the mask grid
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet, RGB values 0…255


@dataclass(frozen=True)
class DecoderDims:
    """Sizes of SAM's prompt encoder and two-way mask decoder.

    Attributes:
        input_px: Side of the square input image, pixels.
        width: Channels C of tokens and embedding.
        inner: Channels inside the cross-attentions.
        heads: Heads of each attention.
        mlp: Hidden channels of the transformer's linear layers.
        depth: Layers of the transformer.
        mask_tokens: Masks that the network predicts per prompt.
        norm_eps: Epsilon of the norm between the upscaling layers.
        token_norm_eps: Epsilon of the transformer's norms.
        dropped_masks: The first masks are not returned. SAM drops its single-mask output.
        points: Points per prompt. Each is one token.
        labelled: True if the network knows all point labels, False if it knows foreground points only.
        no_mask: True if a learned vector is added to the embedding of prompts without a mask.
        fine_width: Channels of a map of stride 8 that prompts read and masks are drawn with. 0: there is no such map.
        near_px: With a fine map: radii of the bumps around a prompt's point, in pixels of the input.
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
        """Side of the embedding, cells."""
        return self.input_px // EMBEDDING_STRIDE

    @property
    def grid_cells(self) -> int:
        """Side G of the mask grid, cells."""
        return self.input_px // MASK_STRIDE

    @property
    def masks(self) -> int:
        """Masks returned per prompt."""
        return self.mask_tokens - self.dropped_masks

    @property
    def tokens(self) -> int:
        """Tokens per prompt: IoU, masks, points."""
        return 1 + self.mask_tokens + self.points


@dataclass(frozen=True)
class Stage:
    """One stage of EfficientNet-Lite0.

    Attributes:
        repeats: Inverted residual blocks.
        kernel: Side of the depthwise kernel.
        stride: Stride of the first block.
        expand: Hidden channels per input channel.
        channels: Output channels.
    """

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


@dataclass(frozen=True)
class TinyDims:
    """Sizes of ``tiny``: EfficientNet-Lite0, a neck and SAM's decoder.

    Attributes:
        input_px: Side of the square input image, pixels.
        stem_channels: Output channels of the first convolution.
        stages: The encoder's stages.
        tap_blocks: The last block at strides 8, 16 and 32. The neck reads them.
        tap_channels: Channels of these blocks.
        pixel_mean: Subtracted from RGB values 0…255, as in the ImageNet training of EfficientNet-Lite0.
        pixel_std: Divisor of RGB values.
        neck_blocks: Blocks at stride 32 and at stride 16 in the neck.
        width: Channels C of tokens and embedding.
        inner: Channels inside the cross-attentions.
        heads: Heads of each attention.
        mlp: Hidden channels of the transformer's linear layers.
        depth: Layers of the transformer.
        masks: Masks per prompt.
        norm_eps: Epsilon of the norms of images.
        token_norm_eps: Epsilon of the transformer's norms.
        tap_block4: The last block at stride 4. The fine map reads it.
        tap_channels4: Channels of this block.
        fine_width: Channels of the fine map; see ``DecoderDims``.
        fine_blocks: Blocks that mix the fine map.
        near_px: Radii of the bumps; see ``DecoderDims``.
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
    tap_blocks: tuple[int, int, int] = (4, 10, 15)
    tap_channels: tuple[int, int, int] = (40, 112, 320)
    pixel_mean: float = 127.0
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
    tap_block4: int = 2
    tap_channels4: int = 24
    fine_width: int = 64
    fine_blocks: int = 2
    near_px: tuple[float, ...] = (6.0, 14.0, 32.0, 72.0, 160.0)

    @property
    def decoder(self) -> DecoderDims:
        """The sizes of the decoder."""
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
    """Sizes of SAM's ViT encoder (Kirillov et al. 2023, with ViTDet's windows).

    Attributes:
        width: Channels of tokens.
        depth: Blocks.
        heads: Heads of each attention.
        global_blocks: Blocks that attend to the whole image. The others attend within windows.
        input_px: Side of the square input image, pixels.
        patch_px: Side of a patch, pixels.
        window: Side of a window, positions.
        mlp_ratio: Hidden channels of the linear layers, per channel.
        neck: Channels of the embedding.
        norm_eps: Epsilon of the norms.
        pixel_mean: Subtracted from RGB values 0…255.
        pixel_std: Divisor of RGB values.
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
        """Side of the embedding, cells."""
        return self.input_px // self.patch_px


TINY = TinyDims()
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
    """One attention stage of TinyViT: patches are merged, then blocks attend within windows.

    Attributes:
        width: Channels of tokens.
        depth: Blocks.
        heads: Heads of each attention.
        window: Side of a window, positions.
        stride: Stride of the patch merging.
    """

    width: int
    depth: int
    heads: int
    window: int
    stride: int


@dataclass(frozen=True)
class TinyVitDims:
    """Sizes of MobileSAM's encoder, TinyViT-5M (Wu et al. 2022; Zhang et al. 2023).

    Unlike TinyViT, MobileSAM merges no patches before the last stage.

    Attributes:
        input_px: Side of the square input image, pixels.
        conv_width: Channels of the first stage, inverted residual blocks at stride 4.
        conv_depth: Blocks of the first stage.
        conv_expand: Hidden channels of these blocks, per channel.
        stages: The attention stages.
        mlp_ratio: Hidden channels of the linear layers, per channel.
        neck: Channels of the embedding.
        batch_norm_eps: Epsilon of the batch norms.
        norm_eps: Epsilon of the blocks' norms.
        neck_norm_eps: Epsilon of the neck's norms.
        pixel_mean: Subtracted from RGB values 0…255.
        pixel_std: Divisor of RGB values.
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
        """Side of the embedding, cells."""
        return self.input_px // EMBEDDING_STRIDE


VIT_T = TinyVitDims()
