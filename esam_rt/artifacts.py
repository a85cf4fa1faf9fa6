"""The cache of exported models: made once from a checkpoint, checked before each use."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from .errors import ModelError, OutputError
from .files import write_json
from .models import EXPORTER_VERSION, ModelRow, sha256_of

MANIFEST = "manifest.json"
GRAPHS = ("encoder.onnx", "decoder.onnx", "logits.onnx")


@dataclass(frozen=True)
class OnnxModel:
    """The three graphs of a model and the SHA-256 of the checkpoint that they were made of."""

    encoder: Path
    decoder: Path
    logits: Path
    checkpoint_sha256: str


def cache_folder() -> Path:
    """`ESAM_RT_CACHE`, else the platform's cache folder of the user. It need not exist yet."""
    override = os.environ.get("ESAM_RT_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("esam-rt", appauthor=False))


def onnx_model(row: ModelRow, checkpoint: Path | None = None) -> OnnxModel:
    """The ONNX files of a model, exported from its checkpoint (default: the one that ships) unless the cache has them.

    The cache is keyed on the checkpoint's hash and the exporter's version. Every file is compared with the hash written
    when it was made, and made anew if it differs. Two processes that need the same model make it once.
    """
    checkpoint = checkpoint or row.checkpoint
    if checkpoint is None:
        raise ModelError(f"Model {row.name}: no checkpoint given; expected --checkpoint FILE.")
    digest = sha256_of(checkpoint)
    folder = cache_folder() / "onnx" / f"{row.name}-{digest[:16]}-v{EXPORTER_VERSION}"
    if not _is_whole(folder):  # what is whole needs no lock: a cache may be read-only
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f"{folder.name}.lock"):
                if not _is_whole(folder):
                    _export(row.name, checkpoint, folder)
        except OSError as e:
            if isinstance(e, OutputError):
                raise
            raise OutputError(
                f"{folder}: cannot be made ({e.strerror}); expected a writable cache folder. Set ESAM_RT_CACHE to one."
            ) from e
    encoder, decoder, logits = (folder / name for name in GRAPHS)
    return OnnxModel(encoder, decoder, logits, digest)


def _export(name: str, checkpoint: Path, folder: Path) -> None:
    """Write the graphs, then the manifest that makes them whole."""
    from .export import export_model

    export_model(name, checkpoint, folder)
    write_json(folder / MANIFEST, {graph: sha256_of(folder / graph) for graph in GRAPHS})


def _is_whole(folder: Path) -> bool:
    """Whether the manifest and every graph are there, with the hashes that it says."""
    try:
        hashes = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    if not isinstance(hashes, dict) or set(hashes) != set(GRAPHS):
        return False
    return all((folder / name).is_file() and sha256_of(folder / name) == hashes[name] for name in GRAPHS)
