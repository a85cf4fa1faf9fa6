"""The cache of checkpoints and exported models: made once, checked before each use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from .errors import ModelError, OutputError
from .files import write_json
from .models import EXPORTER_VERSION, ModelRow, sha256_of

MANIFEST = "manifest.json"
GRAPHS = ("encoder.onnx", "decoder.onnx", "masks.onnx", "logits.onnx")
REMEMBERED_BYTES = 64 << 20  # larger checkpoints are not hashed anew at every start


@dataclass(frozen=True)
class OnnxModel:
    """The graphs of a model, all their files, and the SHA-256 of the checkpoint that they were made of."""

    encoder: Path
    decoder: Path
    masks: Path
    logits: Path
    checkpoint_sha256: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Listener:
    """What to tell while a model is fetched (bytes there, bytes of the whole) and exported (name of each file)."""

    downloaded: Callable[[int, int], None] | None = None
    writing: Callable[[str], None] | None = None


def cache_folder() -> Path:
    """`ESAM_RT_CACHE`, else the platform's cache folder of the user. It need not exist yet."""
    override = os.environ.get("ESAM_RT_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("esam-rt", appauthor=False))


def checkpoint_of(row: ModelRow, checkpoint: Path | None = None, listener: Listener = Listener()) -> Path:
    """The checkpoint of a model: the one given, else the one that ships, else the published one, downloaded if needed.

    Errors as of `fetch_checkpoint`.
    """
    if given := checkpoint or row.checkpoint:
        return given
    from .download import fetch_checkpoint  # 0.1 s and 16 MB that no other run needs

    return fetch_checkpoint(row, cache_folder() / "checkpoints", listener.downloaded)


def checkpoint_sha256(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint, hex; of a folder: of the hashes of its files. ModelError where it cannot be read.

    Hashing ViT-H takes seconds. The hash of a large file is remembered with the file's size, times and inode, and taken
    anew when one of them has changed.
    """
    from .export.checkpoint import checkpoint_files

    hashes = [_remembered_sha256(file) for file in checkpoint_files(checkpoint)]
    return hashes[0] if checkpoint.is_file() else hashlib.sha256("".join(hashes).encode()).hexdigest()


def onnx_model(
    row: ModelRow,
    checkpoint: Path | None = None,
    precision: str = "fp32",
    attention: str | None = None,
    listener: Listener = Listener(),
) -> OnnxModel:
    """The ONNX files of a model, exported from its checkpoint (see `checkpoint_of`) unless the cache has them.

    precision, attention: as of `export_model`. The cache is keyed on the checkpoint's hash, the exporter's version and
    these. Every file is compared with what was written when it was made, and made anew if it differs. Two processes
    that need the same model make it once.
    """
    checkpoint = checkpoint_of(row, checkpoint, listener)
    digest = checkpoint_sha256(checkpoint)
    form = f"-{attention}" if attention else ""
    folder = cache_folder() / "onnx" / f"{row.name}-{digest[:16]}-{precision}{form}-v{EXPORTER_VERSION}"
    if not _is_whole(folder):  # what is whole needs no lock: a cache may be read-only
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f"{folder.name}.lock"):
                if not _is_whole(folder):
                    export_to(row.name, checkpoint, folder, precision, attention, listener)
        except OSError as e:
            if isinstance(e, OutputError):
                raise
            raise OutputError(
                f"{folder}: cannot be made ({e.strerror}); expected a writable cache folder. Set ESAM_RT_CACHE to one."
            ) from e
    files = tuple(folder / name for name in _manifest(folder))
    encoder, decoder, masks, logits = (folder / name for name in GRAPHS)
    return OnnxModel(encoder, decoder, masks, logits, digest, files)


def export_to(
    name: str,
    checkpoint: Path,
    folder: Path,
    precision: str = "fp32",
    attention: str | None = None,
    listener: Listener = Listener(),
) -> tuple[Path, ...]:
    """Write the graphs to a folder, then the manifest that makes them whole; returns the graphs' files."""
    from .export import AttentionForm, Precision, export_model

    form = AttentionForm(attention) if attention else None
    model = export_model(name, checkpoint, folder, Precision(precision), form, listener.writing)
    manifest = {
        file.name: {"sha256": sha256_of(file), "size_bytes": file.stat().st_size, "mtime_ns": file.stat().st_mtime_ns}
        for file in model.files
    }
    write_json(folder / MANIFEST, manifest)
    return model.files


def exported(row: ModelRow) -> list[str]:
    """What the cache has of a model's exports by this version: the last part of each folder's name, `fp32`."""
    folders = (cache_folder() / "onnx").glob(f"{row.name}-*-v{EXPORTER_VERSION}")
    return sorted({f.name.split("-", 2)[2].rpartition("-v")[0] for f in folders if (f / MANIFEST).is_file()})


def _manifest(folder: Path) -> dict[str, dict[str, object]]:
    """What was written; empty where there is no manifest of all graphs."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict) or not all(isinstance(entry, dict) for entry in manifest.values()):
        return {}
    return manifest if manifest.keys() >= set(GRAPHS) else {}


def _is_whole(folder: Path) -> bool:
    """Whether every file is there as it was written. One of the same size and time is not hashed: gigabytes take
    seconds, and what this guards against, files cut off or overwritten, changes them."""
    manifest = _manifest(folder)
    return bool(manifest) and all(_is_as_written(folder / name, entry) for name, entry in manifest.items())


def _is_as_written(file: Path, entry: dict[str, object]) -> bool:
    if not file.is_file() or file.is_symlink() or file.stat().st_size != entry.get("size_bytes"):
        return False
    return file.stat().st_mtime_ns == entry.get("mtime_ns") or sha256_of(file) == entry.get("sha256")


def _remembered_sha256(file: Path) -> str:
    """SHA-256 of a file, from memory where a large one has not changed."""
    try:
        state = file.stat()
    except OSError as e:
        raise ModelError(f"{file}: cannot be read ({e.strerror}); expected a model file.") from e
    if state.st_size < REMEMBERED_BYTES:
        return sha256_of(file)
    note = cache_folder() / "hashes" / f"{hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:32]}.json"
    mark = {
        "size_bytes": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
        "inode": state.st_ino,
    }
    try:
        remembered = json.loads(note.read_text())
        if {key: remembered[key] for key in mark} == mark:
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        remembered = None  # never noted, or the note is broken: it is written anew
    digest = sha256_of(file)
    if os.access(cache_folder(), os.W_OK) or not cache_folder().exists():
        write_json(note, mark | {"sha256": digest})
    return digest
