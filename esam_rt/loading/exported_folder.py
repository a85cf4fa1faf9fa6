"""Graphs that a user brings: a folder of `esam-rt export --out`, checked in full before anything reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from esam_rt.errors import ModelError
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.loading.execution import PRECISIONS
from esam_rt.loading.onnx_cache import GRAPHS, OnnxModel
from esam_rt.sam.models import MODELS, ModelSpec
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.manifest import MANIFEST, listed_files
from esam_rt.storage.onnx_files import check_graph_file

KEYS = ("model", "precision", "checkpoint_sha256", "exporter_version")  # of what the exporter writes into each graph
AGAIN = "Write it again: esam-rt export --out."


@dataclass(frozen=True)
class GivenGraphs:
    """The graphs of a folder, and the model and precision that they say they are of."""

    row: ModelSpec
    precision: str
    onnx: OnnxModel


def given_graphs(folder: Path) -> GivenGraphs:
    """The graphs of a folder that `esam-rt export --out` wrote.

    ModelError unless the manifest is there, each graph and its data are as it lists them, hashes included, and all
    graphs are of one model, precision and checkpoint and of this version of the exporter.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise ModelError(
            f"{folder}: found {found}, expected the folder that esam-rt export --out wrote: {', '.join(GRAPHS)} and "
            f"{MANIFEST}."
        )
    entries = listed_files(folder, GRAPHS)
    if not entries:
        found = "no list of these graphs" if (folder / MANIFEST).exists() else "no such file"
        raise ModelError(
            f"{folder / MANIFEST}: found {found}, expected {', '.join(GRAPHS)} there, as of esam-rt export --out."
        )
    files: list[Path] = []
    for name in GRAPHS:
        _check_hash(folder / name, entries)
        data = {tensor.file for tensor in check_graph_file(folder / name)}
        for file in sorted(data):
            _check_hash(file, entries)
        files += [folder / name, *sorted(data)]
    says = {name: _says(folder / name) for name in GRAPHS}
    first = says[GRAPHS[0]]
    for name, of_graph in says.items():
        for key in KEYS:
            if of_graph[key] != first[key]:
                raise ModelError(
                    f"{folder / name}: {key}: found {of_graph[key]!r:.80}, expected {first[key]!r:.80} of {GRAPHS[0]}. "
                    f"{AGAIN}"
                )
    for key, known in (("model", MODELS), ("precision", PRECISIONS), ("exporter_version", (EXPORTER_VERSION,))):
        if first[key] not in known:
            raise ModelError(
                f"{folder / GRAPHS[0]}: {key}: found {first[key]!r:.80}, expected {' or '.join(known)}. {AGAIN}"
            )
    encoder, decoder, masks, logits = (folder / name for name in GRAPHS)
    model = OnnxModel(encoder, decoder, masks, logits, first["checkpoint_sha256"], tuple(files))
    return GivenGraphs(MODELS[first["model"]], first["precision"], model)


def _check_hash(file: Path, entries: dict[str, dict[str, Any]]) -> None:
    """ModelError unless a file is as the manifest lists it."""
    if not file.is_file() or file.is_symlink():
        raise ModelError(f"{file}: found no such file, expected it as {MANIFEST} lists it. {AGAIN}")
    found, expected = sha256_of(file), str(entries.get(file.name, {}).get("sha256"))
    if found != expected:
        raise ModelError(
            f"{file}: found SHA-256 {found[:12]}…, expected {expected[:12]}… of {MANIFEST}; the file is damaged or of "
            f"another export. {AGAIN}"
        )


def _says(path: Path) -> dict[str, str]:
    """What the exporter wrote into a graph, by key; empty words where it is of another program."""
    model = onnx.load_model(path, load_external_data=False)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return {key: metadata.get(f"esam_rt.{key}", "") for key in KEYS}
