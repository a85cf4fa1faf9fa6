"""Finds the weights for engines that were built without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_rt.engines.tensorrt.builder import load_library
from esam_rt.engines.tensorrt.loaded_engine import Weights
from esam_rt.errors import ModelError
from esam_rt.loading.checkpoints import expected_sha256
from esam_rt.loading.engine_record import REBUILD, RECORD, EngineSet, brief
from esam_rt.loading.engine_spec import EngineSpec
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.networks import ENGINE_FILES, GRAPHS
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.hashing import remembered_sha256
from esam_rt.storage.manifest import listed_files
from esam_rt.storage.onnx_files import check_graph_file

ATTENTION = ("fused", "concat", "bias")  # attention forms of a ViT; TensorRT's come first


def weights_of(
    engines: EngineSet, row: ModelSpec, spec: EngineSpec, checkpoint: Path | None, on_event: OnEvent = ignore
) -> Mapping[str, Weights]:
    """Find the weights that engines lack. The model is exported if needed.

    Args:
        engines: Engines with or without weights.
        row: Their model.
        spec: The wanted engines.
        checkpoint: Weights in place of the model's own.
        on_event: Called while the model is fetched and exported.

    Returns:
        Weights by engine file name; empty for engines that have theirs.

    Raises:
        ModelError: The checkpoint or the graphs differ from those that the engines were built from, by their hashes.
    """
    record, path = engines.record, engines.folder / RECORD
    if not record.is_stripped:
        return {}
    found, expected = record.checkpoint_sha256, expected_sha256(row, checkpoint)
    if found != expected:
        raise ModelError(
            f"{path}: checkpoint_sha256: found {found[:12]}…, expected {expected[:12]}… of "
            f"{checkpoint or row.name}. These engines take their weights from the checkpoint that they were made from: "
            "name it with --checkpoint."
        )
    first = spec.attention(row, load_library(spec.backend))
    for attention in dict.fromkeys((first, *ATTENTION)) if first else (None,):
        graphs = onnx_model(row, checkpoint, spec.precision, attention, on_event)
        files = listed_files(graphs.encoder.parent, GRAPHS)
        if {name: entry["sha256"] for name, entry in files.items()} == record.onnx_sha256:
            for graph in graphs:
                for file in sorted({graph, *(tensor.file for tensor in check_graph_file(graph))}):
                    _check_sha256(file, str(record.onnx_sha256.get(file.name)))
            return {name: Weights(graph, _size(graph, files)) for name, graph in zip(ENGINE_FILES, graphs, strict=True)}
    raise ModelError(
        f"{path}: onnx_sha256: found {brief(record.onnx_sha256)}, expected the hashes of the graphs of "
        f"{row.name}. {REBUILD}"
    )


def _check_sha256(file: Path, expected: str) -> None:
    """Raise ``ModelError`` if a file is not the one that the engines were built from."""
    found = remembered_sha256(file)
    if found != expected:
        raise ModelError(
            f"{file}: found SHA-256 {found[:12]}…, expected {expected[:12]}…: the file is damaged. Remove its "
            "folder. It is made again."
        )


def _size(graph: Path, files: Mapping[str, Any]) -> int:
    """Bytes of a graph and of its data file."""
    return sum(int(files[name]["size_bytes"]) for name in (graph.name, f"{graph.name}.data") if name in files)
