"""Names of the tensors in a checkpoint: the exporter's own, SAM's and those of Hugging Face's SamModel."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Naming:
    """Maps the exporter's tensor names to the names in one kind of checkpoint.

    Attributes:
        title: Name of the kind, for messages.
        signature: Pattern of tensor names that only this kind has.
        rules: Pairs of pattern and replacement. The first pattern that matches a whole name of the exporter gives the
            name in the file. If none matches, the names are equal.
        ignored: Patterns of tensors in the file that no graph needs.
    """

    title: str
    signature: str
    rules: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def of_file(self, name: str) -> str:
        """Return the name in the file for a name of the exporter."""
        for pattern, replacement in self.rules:
            if match := re.fullmatch(pattern, name):
                return match.expand(replacement)
        return name

    def is_signature(self, name_in_file: str) -> bool:
        """Return True if only this kind has a tensor of that name."""
        return re.fullmatch(self.signature, name_in_file) is not None

    def is_ignored(self, name_in_file: str) -> bool:
        """Return True if no graph needs the tensor."""
        return any(re.fullmatch(pattern, name_in_file) for pattern in self.ignored)


OURS = Naming("esam-rt", r"decoder\..+")

# The exporter's names are those of SAM without the prefix, unless SAM's name says too little.
SAM = Naming(
    "Segment Anything",
    r"mask_decoder\.output_upscaling\..+",
    rules=(
        (r"encoder\.patch\.(.+)", r"image_encoder.patch_embed.proj.\1"),
        (r"encoder\.neck\.conv1\.(.+)", r"image_encoder.neck.0.\1"),
        (r"encoder\.neck\.norm1\.(.+)", r"image_encoder.neck.1.\1"),
        (r"encoder\.neck\.conv2\.(.+)", r"image_encoder.neck.2.\1"),
        (r"encoder\.neck\.norm2\.(.+)", r"image_encoder.neck.3.\1"),
        (r"encoder\.(.+)", r"image_encoder.\1"),
        (r"decoder\.pe_gaussian", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
        (r"decoder\.background", "prompt_encoder.point_embeddings.0.weight"),
        (r"decoder\.foreground", "prompt_encoder.point_embeddings.1.weight"),
        (r"decoder\.top_left", "prompt_encoder.point_embeddings.2.weight"),
        (r"decoder\.bottom_right", "prompt_encoder.point_embeddings.3.weight"),
        (r"decoder\.not_a_point", "prompt_encoder.not_a_point_embed.weight"),
        (r"decoder\.no_mask", "prompt_encoder.no_mask_embed.weight"),
        (r"decoder\.(iou_token|mask_tokens)", r"mask_decoder.\1.weight"),
        (r"decoder\.layers\.(\d+)\.mlp\.layers\.0\.(.+)", r"mask_decoder.transformer.layers.\1.mlp.lin1.\2"),
        (r"decoder\.layers\.(\d+)\.mlp\.layers\.1\.(.+)", r"mask_decoder.transformer.layers.\1.mlp.lin2.\2"),
        (
            r"decoder\.layers\.(\d+)\.self_attn\.([^.]+)\.(.+)",
            r"mask_decoder.transformer.layers.\1.self_attn.\2_proj.\3",
        ),
        (
            r"decoder\.layers\.(\d+)\.token_to_image\.([^.]+)\.(.+)",
            r"mask_decoder.transformer.layers.\1.cross_attn_token_to_image.\2_proj.\3",
        ),
        (
            r"decoder\.layers\.(\d+)\.image_to_token\.([^.]+)\.(.+)",
            r"mask_decoder.transformer.layers.\1.cross_attn_image_to_token.\2_proj.\3",
        ),
        (r"decoder\.layers\.(.+)", r"mask_decoder.transformer.layers.\1"),
        (r"decoder\.final_attn\.([^.]+)\.(.+)", r"mask_decoder.transformer.final_attn_token_to_image.\1_proj.\2"),
        (r"decoder\.final_norm\.(.+)", r"mask_decoder.transformer.norm_final_attn.\1"),
        (r"decoder\.up1\.(.+)", r"mask_decoder.output_upscaling.0.\1"),
        (r"decoder\.up_norm\.(.+)", r"mask_decoder.output_upscaling.1.\1"),
        (r"decoder\.up2\.(.+)", r"mask_decoder.output_upscaling.3.\1"),
        (r"decoder\.hyper\.(.+)", r"mask_decoder.output_hypernetworks_mlps.\1"),
        (r"decoder\.iou_head\.(.+)", r"mask_decoder.iou_prediction_head.\1"),
    ),
    ignored=(
        r"prompt_encoder\.mask_downscaling\..+",  # masks as prompts
        r"image_encoder\.(norm_head|head)\..+",  # MobileSAM: its encoder was trained as a classifier
        r".+\.num_batches_tracked",
        r".+\.attention_bias_idxs",
        r"pixel_(mean|std)",
    ),
)

HUGGING_FACE = Naming(
    "Hugging Face SamModel",
    r"mask_decoder\.upscale_.+",
    rules=(
        (r"encoder\.patch\.(.+)", r"vision_encoder.patch_embed.projection.\1"),
        (r"encoder\.neck\.norm([12])\.(.+)", r"vision_encoder.neck.layer_norm\1.\2"),
        (r"encoder\.blocks\.(\d+)\.norm([12])\.(.+)", r"vision_encoder.layers.\1.layer_norm\2.\3"),
        (r"encoder\.blocks\.(.+)", r"vision_encoder.layers.\1"),
        (r"encoder\.(.+)", r"vision_encoder.\1"),
        (r"decoder\.pe_gaussian", "shared_image_embedding.positional_embedding"),
        (r"decoder\.background", "prompt_encoder.point_embed.0.weight"),
        (r"decoder\.foreground", "prompt_encoder.point_embed.1.weight"),
        (r"decoder\.top_left", "prompt_encoder.point_embed.2.weight"),
        (r"decoder\.bottom_right", "prompt_encoder.point_embed.3.weight"),
        (r"decoder\.layers\.(\d+)\.norm([1-4])\.(.+)", r"mask_decoder.transformer.layers.\1.layer_norm\2.\3"),
        (r"decoder\.final_norm\.(.+)", r"mask_decoder.transformer.layer_norm_final_attn.\1"),
        (r"decoder\.up([12])\.(.+)", r"mask_decoder.upscale_conv\1.\2"),
        (r"decoder\.up_norm\.(.+)", r"mask_decoder.upscale_layer_norm.\1"),
        (r"decoder\.hyper\.(\d+)\.layers\.0\.(.+)", r"mask_decoder.output_hypernetworks_mlps.\1.proj_in.\2"),
        (r"decoder\.hyper\.(\d+)\.layers\.1\.(.+)", r"mask_decoder.output_hypernetworks_mlps.\1.layers.0.\2"),
        (r"decoder\.hyper\.(\d+)\.layers\.2\.(.+)", r"mask_decoder.output_hypernetworks_mlps.\1.proj_out.\2"),
        (r"decoder\.iou_head\.layers\.0\.(.+)", r"mask_decoder.iou_prediction_head.proj_in.\1"),
        (r"decoder\.iou_head\.layers\.1\.(.+)", r"mask_decoder.iou_prediction_head.layers.0.\1"),
        (r"decoder\.iou_head\.layers\.2\.(.+)", r"mask_decoder.iou_prediction_head.proj_out.\1"),
        *(rule for rule in SAM.rules if rule[0].startswith("decoder")),
    ),
    ignored=(
        r"prompt_encoder\.mask_embed\..+",
        r"prompt_encoder\.shared_embedding\.positional_embedding",  # the same as shared_image_embedding
    ),
)

NAMINGS = (SAM, HUGGING_FACE, OURS)


def naming_of(names: Collection[str]) -> Naming | None:
    """Find the naming of a checkpoint by its tensor names.

    Args:
        names: The tensor names.

    Returns:
        The first naming with a signature among the names, or None.
    """
    return next((naming for naming in NAMINGS if any(naming.is_signature(name) for name in names)), None)
