"""Checkpoint → ONNX, without PyTorch. Never imported by the running pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from esam_rt.artifacts import checkpoint_sha256
from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.manifest import written_together
from esam_rt.models import EXPORTER_VERSION

from .checkpoint import read_checkpoint
from .decoder import add_image_side, build_decoder, build_logits, build_masks
from .dims import SAM_DECODER, TINY, TINY_FINE, VIT_B, VIT_H, VIT_L, VIT_T, TinyDims
from .efficientnet import build_encoder
from .files import write_graph
from .graph import Graph, Precision
from .tinyvit import build_tinyvit_encoder
from .vit import AttentionForm, build_vit_encoder
from .weights import Weights

__all__ = ["AttentionForm", "ExportedModel", "Precision", "build_graphs", "export_model"]

Progress: TypeAlias = Callable[[str], None]
"""Called with the name of each file before it is written."""


VITS = {"vit_b": VIT_B, "vit_l": VIT_L, "vit_h": VIT_H}
DECODERS = {"tiny": TINY.decoder} | dict.fromkeys(("vit_t", *VITS), SAM_DECODER)


@dataclass(frozen=True)
class ExportedModel:
    """The ONNX files of a model; their inputs and outputs: `build_decoder`, `build_masks`, `build_logits`, and the
    encoder's builder with `add_image_side`. files: all that belongs to them, the data of large weights too."""

    encoder: Path
    decoder: Path
    masks: Path
    logits: Path
    files: tuple[Path, ...]


def export_model(
    name: str,
    checkpoint: Path,
    out_dir: Path,
    precision: Precision = Precision.FP32,
    attention: AttentionForm | None = None,
    progress: Progress | None = None,
) -> ExportedModel:
    """Write encoder.onnx, decoder.onnx, masks.onnx and logits.onnx of model `name` to `out_dir`, and a manifest.

    attention: how a ViT's relative positions enter; default: bias, the fastest on a CPU. The same checkpoint gives the
    same bytes. SettingsError for an unknown name or an attention form that the model does not have, ModelError for a
    checkpoint that is missing, broken or of another architecture, OutputError for a folder that cannot be written.
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
            if progress is not None:
                progress(path.name)
            names += [file.name for file in write_graph(graph, path, metadata, EXPORTER_VERSION)]
    encoder, decoder, masks, logits = (out_dir / f"{graph.name}.onnx" for graph in graphs)
    return ExportedModel(encoder, decoder, masks, logits, tuple(out_dir / name for name in names))


def build_graphs(
    name: str, weights: Weights, precision: Precision = Precision.FP32, attention: AttentionForm | None = None
) -> Iterator[Graph]:
    """Encoder, decoder, masks and logits of model `name`. Errors as of `export_model`."""
    if name not in DECODERS:
        raise SettingsError(f"Unknown model {name!r}.{did_you_mean(name, DECODERS)}")
    tiny = TINY_FINE if "encoder.fine.norm.weight" in weights else TINY  # both forms of the model that ships
    decoder = tiny.decoder if name == "tiny" else DECODERS[name]
    encoder = _encoder(name, tiny, weights, precision, attention)
    add_image_side(encoder, decoder, weights)
    yield encoder
    for build in (build_decoder, build_masks, build_logits):
        yield build(decoder, weights, precision)


def _encoder(
    name: str, tiny: TinyDims, weights: Weights, precision: Precision, attention: AttentionForm | None
) -> Graph:
    """The encoder of a known model."""
    if name in VITS:
        return build_vit_encoder(VITS[name], weights, precision, attention or AttentionForm.BIAS)
    if attention is not None:
        raise SettingsError(f"Model {name} has no choice of attention forms, only {', '.join(VITS)} have.")
    return (
        build_encoder(tiny, weights, precision) if name == "tiny" else build_tinyvit_encoder(VIT_T, weights, precision)
    )
