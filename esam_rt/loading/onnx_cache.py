"""The cache of exported ONNX graphs: made once, checked before each use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from esam_rt.errors import OutputError
from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.loading.checkpoints import checkpoint_of
from esam_rt.loading.events import SILENT, ModelListener
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.manifest import MANIFEST, is_whole, listed_files, remove_leftovers

GRAPHS = ("encoder.onnx", "decoder.onnx", "mask_head.onnx", "logits.onnx")


@dataclass(frozen=True)
class OnnxModel:
    """The graphs of a model, all their files, and the SHA-256 of the checkpoint that they were made of."""

    encoder: Path
    decoder: Path
    mask_head: Path
    logits: Path
    checkpoint_sha256: str
    files: tuple[Path, ...]


def onnx_model(
    row: ModelSpec,
    checkpoint: Path | None = None,
    precision: str = "fp32",
    attention: str | None = None,
    listener: ModelListener = SILENT,
) -> OnnxModel:
    """The ONNX files of a model, exported from its checkpoint (see `checkpoint_of`) unless the cache has them.

    precision, attention: as of `export_model`. The cache is keyed on the checkpoint's hash, the exporter's version and
    these. Every file is compared with what was written when it was made, and made anew if it differs. Two processes
    that need the same model make it once.
    """
    checkpoint = checkpoint_of(row, checkpoint, listener)
    digest = checkpoint_sha256(checkpoint)
    attention = attention or row.attention
    key = "-".join(part for part in (row.name, digest[:16], precision, attention) if part)
    folder = cache_folder() / "onnx" / f"{key}-v{EXPORTER_VERSION}"
    if not is_whole(folder, GRAPHS):  # what is whole needs no lock: a cache may be read-only
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f"{folder.name}.lock"):
                if not is_whole(folder, GRAPHS):
                    remove_leftovers(folder)
                    export_to(row, checkpoint, folder, precision, attention, listener)
        except OSError as e:
            if isinstance(e, OutputError):
                raise
            raise OutputError(
                f"{folder}: cannot be made ({e.strerror}); expected a writable cache folder. Set ESAM_RT_CACHE to one."
            ) from e
    written = listed_files(folder, GRAPHS)
    files = tuple(folder / name for graph in GRAPHS for name in (graph, f"{graph}.data") if name in written)
    encoder, decoder, masks, logits = (folder / name for name in GRAPHS)
    return OnnxModel(encoder, decoder, masks, logits, digest, files)


def export_to(
    row: ModelSpec,
    checkpoint: Path,
    folder: Path,
    precision: str = "fp32",
    attention: str | None = None,
    listener: ModelListener = SILENT,
) -> tuple[Path, ...]:
    """`export_model` by words; returns the graphs' files."""
    from esam_rt.export import AttentionForm, Precision, export_model

    form = AttentionForm(attention) if attention else None
    return export_model(row.name, checkpoint, folder, Precision(precision), form, listener.writing).files


def exported(row: ModelSpec) -> list[str]:
    """What the cache has of a model's exports by this version, of any checkpoint: precisions and attention forms."""
    folders = (cache_folder() / "onnx").glob(f"{row.name}-*-v{EXPORTER_VERSION}")
    try:
        return sorted({f.name.split("-", 2)[2].rpartition("-v")[0] for f in folders if (f / MANIFEST).is_file()})
    except OSError:  # it cannot be searched
        return []
