"""Checkpoints of SAM for tests: a small model, its tensors under the names of segment-anything, and files of them."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamConfig, SamModel

from esam_rt.export.checkpoints.lazy_tensor import FileTensor
from tests.support.tinyvit_torch import TinyVit

# From the modules of transformers to those of segment-anything, one after the other.
RENAMES = (
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"^shared_image_embedding\.positional_embedding$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.layer_norm", r"mask_decoder.transformer.layers.\1.norm"),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+))\.proj_out\.", r"\1.layers.2."),
)


def small_sam(seed: int = 0) -> SamModel:
    """SamModel of 64 pixels, 4×4 positions, two blocks (the second global) and random weights."""
    torch.manual_seed(seed)
    config = SamConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "mlp_dim": 128,
            "image_size": 64,
            "output_channels": 16,
            "num_pos_feats": 8,
            "window_size": 3,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    model = SamModel(config).eval().requires_grad_(False)
    for p in model.parameters():
        p.copy_(torch.randn(p.shape))
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    return model


def sam_state_dict(model: SamModel) -> dict[str, Tensor]:
    """The model's tensors under the names of segment-anything, in its order of modules: encoder, prompts, decoder."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name != "prompt_encoder.shared_embedding.positional_embedding":  # the same as of shared_image_embedding
            for pattern, replacement in RENAMES:
                name = re.sub(pattern, replacement, name)
            state[name] = tensor
    parts = ("image_encoder", "prompt_encoder", "mask_decoder")
    return {name: state[name] for part in parts for name in state if name.startswith(part)}


def save_pth(path: Path, state: Mapping[str, Tensor]) -> None:
    """As segment-anything's checkpoints are saved."""
    torch.save(OrderedDict(state), path)


def save_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """As Hugging Face saves: every tensor by itself."""
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path, {"format": "pt"})


def to_numpy(tensor: Tensor) -> NDArray[np.generic]:
    """C order; also of bfloat16, which PyTorch does not convert."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def assert_same_tensors(found: Mapping[str, FileTensor], state: Mapping[str, Tensor]) -> None:
    """Same names in the same order, same bits, and arrays that belong to nobody else."""
    assert list(found) == list(state)
    for name, tensor in state.items():
        ours, expected = found[name].read(), to_numpy(tensor)
        assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype), name
        assert found[name].shape == expected.shape
        assert ours.tobytes() == expected.tobytes(), name
        ours.fill(1)
        assert found[name].read().tobytes() == expected.tobytes()


def whole_vit_b(seed: int = 0) -> SamModel:
    """SamModel of ViT-B's size with random weights: relative positions that matter, logits of both signs, scores of
    about one."""
    torch.manual_seed(seed)
    model = SamModel(SamConfig(mask_decoder_config={"layer_norm_eps": 1e-5})).eval().requires_grad_(False)
    gains = {"hypernetworks": 5, "upscale_conv": 5, "mask_decoder": 3}
    for name, p in model.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            p.normal_(0, 0.2)
        elif p.ndim == 1:
            p.add_(0.2 * torch.randn(p.shape))
        elif gain := next((gain for part, gain in gains.items() if part in name), None):
            p.mul_(gain)
        else:
            p.normal_(0, 1.5 / p[0].numel() ** 0.5)
    model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(1)
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(model.shared_image_embedding.positional_embedding)
    return model


def mobile_sam_state_dict(sam: SamModel, seed: int = 0) -> dict[str, Tensor]:
    """MobileSAM's tensors: a random TinyViT, prompts and decoder of `sam`."""
    torch.manual_seed(seed)
    encoder = {f"image_encoder.{name}": tensor for name, tensor in TinyVit().state_dict().items()}
    rest = {name: t for name, t in sam_state_dict(sam).items() if not name.startswith("image_encoder.")}
    return encoder | rest
