"""SAM in PyTorch, transformers' `SamModel`, at the sizes of the exporter's table."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from transformers import SamConfig, SamModel

from esam_rt.export.configs import SAM_DECODER, VitDims

# What random weights add little with: each block to its input, the photo to its places, prompts to the image.
QUIET = re.compile(r"patch_embed|\.attn\.proj|lin2|image_to_token\.out_proj|iou_prediction_head\.proj_out")


def vision_config(dims: VitDims) -> dict[str, Any]:
    """Arguments of `SamVisionConfig`."""
    return {
        "hidden_size": dims.width,
        "num_hidden_layers": dims.depth,
        "num_attention_heads": dims.heads,
        "global_attn_indexes": list(dims.global_blocks),
        "mlp_dim": dims.mlp_ratio * dims.width,
    }


def sam_model(dims: VitDims, attention: str = "sdpa") -> SamModel:
    """The whole model, its weights as transformers begins them."""
    norm = {"layer_norm_eps": SAM_DECODER.token_norm_eps}
    config = SamConfig(vision_config=vision_config(dims), mask_decoder_config=norm, attn_implementation=attention)
    return SamModel(config).eval().requires_grad_(False)


def random_sam(dims: VitDims) -> SamModel:
    """The whole model with random weights, always the same, to measure time with.

    Values stay near one through all layers: transformers begins the encoder at 1e-10, which is zero in fp16, and a GPU
    multiplies zeros faster. Scores lie around 0.5, and masks are a few smooth blobs, as those of real weights: of noise
    a mask has 100,000 runs, which whoever encodes runs would take for most of the time.
    """
    torch.manual_seed(0)
    model = sam_model(dims)
    for name, p in model.named_parameters():
        if name.endswith("pos_embed"):  # what is seen depends on the place more than on the photo: a few slow waves
            side, width = p.shape[1], p.shape[3]
            yx = torch.cartesian_prod(*2 * [torch.linspace(0, 1, side)]).reshape(side, side, 2)
            p.copy_(3 * torch.cos(2 * math.pi * (yx @ torch.randn(2, width) + torch.rand(width))))
        elif "rel_pos" in name:
            p.normal_(0, 0.2)
        elif "upscale_conv" in name and p.ndim == 4:  # the same at all four places
            p.copy_(torch.randn(*p.shape[:2], 1, 1).mul(2 / math.sqrt(p.shape[0])).expand_as(p))
        elif p.ndim > 1:
            p.normal_(0, (0.3 if QUIET.search(name) else 1) / math.sqrt(p[0].numel()))
    model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(0.5)
    for network in model.mask_decoder.output_hypernetworks_mlps:  # else most masks are empty or full
        network.proj_out.weight.sub_(network.proj_out.weight.mean(0))
    own = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(own.normal_())
    return model
