"""SAM in PyTorch: transformers' SamModel at the sizes of the exporter, with random weights or those of a checkpoint."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import SamConfig, SamModel

from esam_rt.export.checkpoints.checkpoint_reader import read_checkpoint
from esam_rt.export.checkpoints.key_mapping import HUGGING_FACE
from esam_rt.export.configs import SAM_DECODER, VitDims
from esam_rt.export.model import VITS, build_graphs

# Layers whose random weights are small: what a block adds to its input, patches to positions, prompts to the image.
QUIET = re.compile(r"patch_embed|\.attn\.proj|lin2|image_to_token\.out_proj|iou_prediction_head\.proj_out")


def vision_config(dims: VitDims) -> dict[str, Any]:
    """Return the arguments of ``SamVisionConfig``."""
    return {
        "hidden_size": dims.width,
        "num_hidden_layers": dims.depth,
        "num_attention_heads": dims.heads,
        "global_attn_indexes": list(dims.global_blocks),
        "mlp_dim": dims.mlp_ratio * dims.width,
    }


def sam_model(dims: VitDims, attention: str = "sdpa") -> SamModel:
    """Make the whole model with the initial weights of transformers."""
    norm = {"layer_norm_eps": SAM_DECODER.token_norm_eps}
    config = SamConfig(vision_config=vision_config(dims), mask_decoder_config=norm, attn_implementation=attention)
    return SamModel(config).eval().requires_grad_(False)


def random_sam(dims: VitDims) -> SamModel:
    """Make the whole model with fixed random weights, for measuring time.

    Values stay near one in all layers. transformers initializes the encoder at 1e-10, which is zero in fp16, and a GPU
    multiplies zeros faster. Scores are around 0.5. Masks are a few smooth blobs, as with real weights: a mask of noise
    has 100,000 runs, and encoding them would dominate the time of libraries that encode runs.
    """
    torch.manual_seed(0)
    model = sam_model(dims)
    for name, p in model.named_parameters():
        if name.endswith("pos_embed"):  # a few slow waves: the features depend on the place more than on the image
            side, width = p.shape[1], p.shape[3]
            yx = torch.cartesian_prod(*2 * [torch.linspace(0, 1, side)]).reshape(side, side, 2)
            p.copy_(3 * torch.cos(2 * math.pi * (yx @ torch.randn(2, width) + torch.rand(width))))
        elif "rel_pos" in name:
            p.normal_(0, 0.2)
        elif "upscale_conv" in name and p.ndim == 4:  # equal at all four output cells
            p.copy_(torch.randn(*p.shape[:2], 1, 1).mul(2 / math.sqrt(p.shape[0])).expand_as(p))
        elif p.ndim > 1:
            p.normal_(0, (0.3 if QUIET.search(name) else 1) / math.sqrt(p[0].numel()))
    model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(0.5)
    for network in model.mask_decoder.output_hypernetworks_mlps:  # otherwise most masks are empty or full
        network.proj_out.weight.sub_(network.proj_out.weight.mean(0))
    own = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(own.normal_())
    return model


def pytorch_model(name: str, checkpoint: Path, attention: str = "sdpa") -> SamModel:
    """Make the whole model with the tensors of a checkpoint.

    Args:
        name: One of ``VITS``.
        checkpoint: A checkpoint that ``read_checkpoint`` opens.
        attention: transformers' implementation of attention, ``sdpa`` or ``eager``.

    Returns:
        The model.

    Raises:
        AssertionError: The export reads other tensors than SamModel has.
    """
    model = sam_model(VITS[name], attention)
    weights = read_checkpoint(checkpoint)
    list(build_graphs(name, weights))
    state = {
        HUGGING_FACE.of_file(ours): torch.from_numpy(tensor.read().astype(np.float32))
        for ours, tensor in weights.taken.items()
    }
    shared = "shared_image_embedding.positional_embedding"
    state["prompt_encoder.shared_embedding.positional_embedding"] = state[shared]
    own = model.state_dict()
    missing, unexpected = model.load_state_dict({k: v.reshape(own[k].shape) for k, v in state.items()}, strict=False)
    if unexpected or any("mask_embed" not in key for key in missing):
        raise AssertionError(f"SamModel lacks the tensors {unexpected}; the export never read {missing}")
    return model.requires_grad_(False)
