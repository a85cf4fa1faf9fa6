"""Export a checkpoint to ONNX without PyTorch. The running pipeline never imports this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.export.checkpoints.checkpoint_reader import read_checkpoint
from esam_rt.export.checkpoints.weights import Weights
from esam_rt.export.configs import SAM_DECODER, TINY, VIT_B, VIT_H, VIT_L, VIT_T
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.export.graphs.efficientnet import build_encoder
from esam_rt.export.graphs.graph import Graph, Precision
from esam_rt.export.graphs.graph_writer import write_graph
from esam_rt.export.graphs.mask_decoder import add_image_features, build_decoder, build_logits, build_masks
from esam_rt.export.graphs.tinyvit import build_tinyvit_encoder
from esam_rt.export.graphs.vit import AttentionForm, build_vit_encoder
from esam_rt.storage.manifest import written_together

VITS = {"vit_b": VIT_B, "vit_l": VIT_L, "vit_h": VIT_H}
DECODERS = {"tiny": TINY.decoder} | dict.fromkeys(("vit_t", *VITS), SAM_DECODER)


@dataclass(frozen=True)
class ExportedModel:
    """The ONNX files of one model.

    Attributes:
        encoder: Image to embedding and image features (``build_vit_encoder``, ``add_image_features``).
        decoder: Prompts to predicted IoU and prompt features (``build_decoder``).
        mask_head: Prompt features to bit-packed masks (``build_masks``).
        logits: Prompt features to mask logits (``build_logits``).
        files: Every file of the export, with the data files of large weights.
    """

    encoder: Path
    decoder: Path
    mask_head: Path
    logits: Path
    files: tuple[Path, ...]


def export_model(
    name: str,
    checkpoint: Path,
    out_dir: Path,
    precision: Precision = Precision.FP32,
    attention: AttentionForm | None = None,
    on_file: Callable[[str], None] | None = None,
) -> ExportedModel:
    """Write the four ONNX graphs of a model and a manifest.

    The files are ``encoder.onnx``, ``decoder.onnx``, ``mask_head.onnx`` and ``logits.onnx``. The same checkpoint gives
    the same bytes.

    Args:
        name: A model that the exporter knows, such as ``tiny`` or ``vit_b``.
        checkpoint: A checkpoint file or folder; see ``read_checkpoint``.
        out_dir: The folder to write to. It is created if it is missing.
        precision: Type of weights and activations.
        attention: How a ViT adds relative positions. Default: ``bias``, the fastest on a CPU.
        on_file: Called with the name of each graph before it is written.

    Returns:
        The paths of the graphs and of all files.

    Raises:
        SettingsError: The name is unknown, or the model has no such attention form.
        ModelError: The checkpoint is missing, broken or of another architecture.
        OutputError: The folder cannot be written.
    """
    weights = read_checkpoint(checkpoint)
    metadata = {
        "esam_rt.exporter_version": EXPORTER_VERSION,
        "esam_rt.model": name,
        "esam_rt.precision": precision,
        "esam_rt.checkpoint_sha256": checkpoint_sha256(checkpoint),
    }
    names: list[str] = []
    graphs = list(build_graphs(name, weights, precision, attention))
    weights.check_all_taken()
    with written_together(out_dir) as folder:
        for graph in graphs:
            path = folder / f"{graph.name}.onnx"
            if on_file is not None:
                on_file(path.name)
            names += [file.name for file in write_graph(graph, path, metadata, EXPORTER_VERSION)]
    encoder, decoder, mask_head, logits = (out_dir / f"{graph.name}.onnx" for graph in graphs)
    return ExportedModel(encoder, decoder, mask_head, logits, tuple(out_dir / name for name in names))


def build_graphs(
    name: str, weights: Weights, precision: Precision = Precision.FP32, attention: AttentionForm | None = None
) -> Iterator[Graph]:
    """Build the graphs of a model in memory: encoder, decoder, mask head and logits, in this order.

    Args:
        name: A model that the exporter knows.
        weights: The tensors of the network.
        precision: Type of weights and activations.
        attention: How a ViT adds relative positions. Default: ``bias``.

    Yields:
        One graph after the other.

    Raises:
        SettingsError: The name is unknown, or the model has no such attention form.
        ModelError: A tensor is missing or has another shape.
    """
    if name not in DECODERS:
        raise SettingsError(f"Unknown model {name!r}.{did_you_mean(name, DECODERS)}")
    decoder = DECODERS[name]
    encoder = _encoder(name, weights, precision, attention)
    add_image_features(encoder, decoder, weights)
    yield encoder
    for build in (build_decoder, build_masks, build_logits):
        yield build(decoder, weights, precision)


def _encoder(name: str, weights: Weights, precision: Precision, attention: AttentionForm | None) -> Graph:
    """Build the encoder of a known model."""
    if name in VITS:
        return build_vit_encoder(VITS[name], weights, precision, attention or AttentionForm.BIAS)
    if attention is not None:
        raise SettingsError(
            f"Model {name} has no choice of attention forms, only {', '.join(VITS)} have. Leave the form out."
        )
    if name == "tiny":
        return build_encoder(TINY, weights, precision)
    return build_tinyvit_encoder(VIT_T, weights, precision)
