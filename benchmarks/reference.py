"""SAM in PyTorch, transformers' `SamModel`, at the sizes of the exporter's table."""

from __future__ import annotations

from typing import Any

from transformers import SamConfig, SamModel

from esam_rt.export.dims import SAM_DECODER, VitDims


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
