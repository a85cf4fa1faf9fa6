"""Graphs that a user brings: a folder of ``esam-rt export --out``, checked in full before anything reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from esam_rt.errors import ModelError
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.loading.execution import PRECISIONS
from esam_rt.loading.onnx_cache import OnnxModel
from esam_rt.networks import GRAPHS
from esam_rt.sam.models import MODELS, ModelSpec
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.manifest import MANIFEST, listed_files
from esam_rt.storage.onnx_files import check_graph_file, checked_text

KEYS = ("model", "precision", "checkpoint_sha256", "exporter_version")  # the exporter writes them into each graph
AGAIN = "Write it again: esam-rt export --out."


@dataclass(frozen=True)
class GivenGraphs:
    """The graphs of a folder.

    Attributes:
        row: The model that the graphs name.
        precision: The precision that they name.
        onnx: Their paths.
    """

    row: ModelSpec
    precision: str
    onnx: OnnxModel


def given_graphs(folder: Path) -> GivenGraphs:
    """Read the graphs of a folder that ``esam-rt export --out`` wrote.

    Args:
        folder: The folder.

    Returns:
        The checked graphs.

    Raises:
        ModelError: The manifest or a file is missing, a file differs from its hash, or the graphs are not of one model,
            precision and checkpoint and of this version of the exporter.
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
        raise ModelError(f"{folder / MANIFEST}: found {found}, expected {', '.join(GRAPHS)} there. {AGAIN}")
    files: list[Path] = []
    for name in GRAPHS:
        _check_sha256(folder / name, entries)
        data = sorted({tensor.file for tensor in check_graph_file(folder / name)})
        for file in data:
            _check_sha256(file, entries)
        files += [folder / name, *data]
    metadata = _common_metadata(folder)
    model = OnnxModel.in_folder(folder, metadata["checkpoint_sha256"], tuple(files))
    return GivenGraphs(MODELS[metadata["model"]], metadata["precision"], model)


def _common_metadata(folder: Path) -> Mapping[str, str]:
    """The metadata that all graphs share. ``ModelError`` if they differ or are unknown here."""
    first = _metadata(folder / GRAPHS[0])
    for name in GRAPHS[1:]:
        other = _metadata(folder / name)
        for key in KEYS:
            if other[key] != first[key]:
                raise ModelError(
                    f"{folder / name}: {key}: found {other[key]!r:.80}, expected {first[key]!r:.80} of {GRAPHS[0]}. "
                    f"{AGAIN}"
                )
    for key, known in (("model", MODELS), ("precision", PRECISIONS), ("exporter_version", (EXPORTER_VERSION,))):
        if first[key] not in known:
            raise ModelError(
                f"{folder / GRAPHS[0]}: {key}: found {first[key]!r:.80}, expected {' or '.join(known)}. {AGAIN}"
            )
    return first


def _metadata(path: Path) -> dict[str, str]:
    """The exporter's keys of a graph; empty values if another program wrote it."""
    model = onnx.load_model(path, load_external_data=False)
    metadata = {checked_text(path, entry.key): checked_text(path, entry.value) for entry in model.metadata_props}
    return {key: metadata.get(f"esam_rt.{key}", "") for key in KEYS}


def _check_sha256(file: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``ModelError`` unless a file is as the manifest lists it."""
    if not file.is_file() or file.is_symlink():
        raise ModelError(f"{file}: found no such file, expected it as {MANIFEST} lists it. {AGAIN}")
    found, expected = sha256_of(file), str(entries.get(file.name, {}).get("sha256"))
    if found != expected:
        raise ModelError(
            f"{file}: found SHA-256 {found[:12]}…, expected {expected[:12]}… of {MANIFEST}: the file is damaged or of "
            f"another export. {AGAIN}"
        )
