"""Weights for engines that were built without them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_rt.engines.tensorrt.builder import load_library
from esam_rt.engines.tensorrt.loaded_engine import Weights
from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.loading.engine_record import ATTENTION, NAMES, SIDECAR, EngineSet, EngineSpec, brief
from esam_rt.loading.events import SILENT, ModelListener
from esam_rt.loading.onnx_cache import GRAPHS, onnx_model
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.hashing import remembered_sha256
from esam_rt.storage.manifest import listed_files
from esam_rt.storage.onnx_files import check_graph_file


def weights_of(
    engines: EngineSet, row: ModelSpec, spec: EngineSpec, checkpoint: Path | None, listener: ModelListener = SILENT
) -> Mapping[str, Weights]:
    """What engines without weights are to get, by name; empty for others. The model is exported if need be, and its
    graphs must be the very ones that the engines were built of, by their hashes: ModelError otherwise."""
    if not engines.sidecar["options"].get("strip_weights"):
        return {}
    found, expected = engines.sidecar["checkpoint_sha256"], _expected_checkpoint_sha256(row, checkpoint)
    if found != expected:
        raise ModelError(
            f"{engines.folder / SIDECAR}: checkpoint_sha256: found {found[:12]}…, expected {expected[:12]}… of "
            f"{checkpoint or row.name}; these engines take their weights from the checkpoint that they were made of: "
            "give it, --checkpoint."
        )
    wanted = engines.sidecar["onnx_sha256"]
    first = spec.attention(row, load_library(spec.backend))
    for attention in dict.fromkeys((first, *ATTENTION)) if first else (None,):
        graphs = onnx_model(row, checkpoint, spec.precision, attention, listener)
        files = listed_files(graphs.encoder.parent, GRAPHS)
        if {name: entry["sha256"] for name, entry in files.items()} == wanted:
            paths = (graphs.encoder, graphs.decoder, graphs.mask_head, graphs.logits)
            for path in paths:
                for file in sorted({path, *(tensor.file for tensor in check_graph_file(path))}):
                    _check_hash(file, str(wanted.get(file.name)))
            return {name: Weights(path, _size(path, files)) for name, path in zip(NAMES, paths, strict=True)}
    raise ModelError(
        f"{engines.folder / SIDECAR}: onnx_sha256: found {brief(wanted)}, expected those of the graphs of {row.name}, "
        "whose weights these engines lack; build them again."
    )


def _expected_checkpoint_sha256(row: ModelSpec, checkpoint: Path | None) -> str:
    """Of the one given, else of that which ships or is published, which need not be here."""
    if file := checkpoint or row.checkpoint:
        return checkpoint_sha256(file)
    return row.remote.sha256 if row.remote else ""


def _check_hash(file: Path, expected: str) -> None:
    """ModelError for a file that is not the one that engines were built of."""
    found = remembered_sha256(file)
    if found != expected:
        raise ModelError(
            f"{file}: found SHA-256 {found[:12]}…, expected {expected[:12]}…; the file is damaged. Remove its "
            "folder, it is made again."
        )


def _size(graph: Path, files: Mapping[str, Any]) -> int:
    """Bytes of a graph and of its weights beside it."""
    return sum(int(files[name]["size_bytes"]) for name in (graph.name, f"{graph.name}.data") if name in files)
