"""Checkpoint → ONNX, without PyTorch. Never imported by the running pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.files import write_bytes
from esam_rt.models import EXPORTER_VERSION, sha256_of

from .checkpoint import read_checkpoint
from .decoder import add_image_side, build_decoder, build_logits
from .dims import TINY
from .efficientnet import build_encoder

__all__ = ["MODELS", "ExportedModel", "export_model"]

MODELS = {"tiny": TINY}


@dataclass(frozen=True)
class ExportedModel:
    """The ONNX files of a model; their inputs and outputs: `build_encoder`, `build_decoder`, `build_logits`."""

    encoder: Path
    decoder: Path
    logits: Path


def export_model(name: str, checkpoint: Path, out_dir: Path) -> ExportedModel:
    """Write encoder.onnx, decoder.onnx and logits.onnx of model `name` to `out_dir`, which is made if needed.

    The same checkpoint gives the same bytes. SettingsError for an unknown name, ModelError for a checkpoint that is
    missing, broken or of another architecture, OutputError for a folder that cannot be written.
    """
    if name not in MODELS:
        raise SettingsError(f"Unknown model {name!r}.{did_you_mean(name, MODELS)}")
    dims = MODELS[name]
    weights = read_checkpoint(checkpoint)
    encoder = build_encoder(dims, weights)
    add_image_side(encoder, dims.decoder, weights)
    graphs = (encoder, build_decoder(dims.decoder, weights), build_logits(dims.decoder, weights))
    weights.check_all_taken()
    metadata = {
        "esam_rt.exporter_version": EXPORTER_VERSION,
        "esam_rt.model": name,
        "esam_rt.checkpoint_sha256": sha256_of(checkpoint),
    }
    paths = [out_dir / f"{graph.name}.onnx" for graph in graphs]
    for graph, path in zip(graphs, paths, strict=True):
        model = ir.to_proto(graph.model(metadata, EXPORTER_VERSION))
        write_bytes(path, model.SerializeToString(deterministic=True))
    return ExportedModel(*paths)
