"""The cache of exported ONNX graphs: made once, checked before each use."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from esam_rt.errors import OutputError
from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.loading.checkpoints import checkpoint_of
from esam_rt.loading.events import OnEvent, Writing, ignore
from esam_rt.networks import GRAPHS, Networks
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.atomic import remove
from esam_rt.storage.cache_dir import cache_folder, private_folder
from esam_rt.storage.manifest import MANIFEST, is_whole, listed_files
from esam_rt.storage.permissions import UntrustedFolderError, make_own_folder, restrict_writing


@dataclass(frozen=True)
class OnnxModel(Networks[Path]):
    """Paths of the graphs of a model.

    Attributes:
        encoder: Graph file.
        decoder: Graph file.
        mask_head: Graph file.
        logits: Graph file.
        checkpoint_sha256: Hash of the checkpoint that the graphs were made from, in hexadecimal.
        files: The graph files and their ``.data`` files.
    """

    checkpoint_sha256: str
    files: tuple[Path, ...]

    @classmethod
    def in_folder(cls, folder: Path, checkpoint_sha256: str, files: tuple[Path, ...]) -> OnnxModel:
        """Name the graphs of a folder.

        Args:
            folder: Folder of an export.
            checkpoint_sha256: Hash of the checkpoint, in hexadecimal.
            files: All files.

        Returns:
            The paths.
        """
        encoder, decoder, mask_head, logits = (folder / name for name in GRAPHS)
        return cls(encoder, decoder, mask_head, logits, checkpoint_sha256, files)


def onnx_model(
    row: ModelSpec,
    checkpoint: Path | None = None,
    precision: str = "fp32",
    attention: str | None = None,
    on_event: OnEvent = ignore,
) -> OnnxModel:
    """Find the ONNX files of a model in the cache, or export them.

    The cache key is the hash of the checkpoint, the version of the exporter, ``precision`` and ``attention``. Each file
    is compared with the record of its export, and exported again if it differs or if others can write it. Two processes
    that need the same model export it once. If the cache belongs to another user, or the home is read-only, a model
    that ships is exported to ``private_folder``, with a warning.

    Args:
        row: The model.
        checkpoint: The user's own weights. Default: those of ``checkpoint_of``.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        attention: Attention form of a ViT: ``bias``, ``concat`` or ``fused``. Default: the model's form for CPUs.
        on_event: Gets ``Downloading`` and ``Writing`` events.

    Returns:
        The paths.

    Raises:
        ModelError: The checkpoint is missing, damaged or of another model.
        SettingsError: The model does not have this attention form.
        OutputError: The cache cannot be written.
    """
    checkpoint = checkpoint_of(row, checkpoint, on_event)
    digest = checkpoint_sha256(checkpoint)
    attention = attention or row.attention
    key = "-".join(part for part in (row.name, digest[:16], precision, attention) if part)
    place = Path("onnx") / f"{key}-v{EXPORTER_VERSION}"

    def export(folder: Path) -> None:
        export_to(row, checkpoint, folder, precision, attention, on_event)

    folder = cache_folder() / place
    try:
        _make_whole(folder, export)
    except OutputError as e:
        is_choice = "ESAM_RT_CACHE" in os.environ and not isinstance(e, UntrustedFolderError)
        if row.checkpoint is None or is_choice:
            raise
        folder = private_folder(str(e).partition(" Set ESAM_RT_CACHE")[0].removesuffix(".")) / place
        _make_whole(folder, export)
    written = listed_files(folder, GRAPHS)
    files = tuple(folder / name for graph in GRAPHS for name in (graph, f"{graph}.data") if name in written)
    return OnnxModel.in_folder(folder, digest, files)


def _make_whole(folder: Path, export: Callable[[Path], object]) -> None:
    """Export to a folder of the cache unless its graphs are whole and nobody else could have written them."""
    if is_whole(folder, GRAPHS):  # a whole folder needs no lock: the cache may be read-only
        return
    try:
        for part in (folder.parent, folder):
            make_own_folder(part)
        with FileLock(folder.parent / f"{folder.name}.lock"):
            if not is_whole(folder, GRAPHS):
                for path in folder.iterdir():  # damaged, of others, or left by a killed process
                    remove(path)
                export(folder)
                for path in folder.iterdir():
                    restrict_writing(path)
    except OSError as e:
        if isinstance(e, OutputError):
            raise
        raise OutputError(
            f"{folder}: the cache folder cannot be made ({e.strerror}). Set ESAM_RT_CACHE to a writable folder."
        ) from e


def export_to(
    row: ModelSpec,
    checkpoint: Path,
    folder: Path,
    precision: str = "fp32",
    attention: str | None = None,
    on_event: OnEvent = ignore,
) -> tuple[Path, ...]:
    """Export a checkpoint to a folder.

    Args:
        row: The model.
        checkpoint: Its weights.
        folder: Folder for the files. It is made if it is missing.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        attention: Attention form of a ViT. Default: ``bias``.
        on_event: Gets a ``Writing`` event for each graph.

    Returns:
        The written files.

    Raises:
        ModelError: The checkpoint is missing, damaged or of another model.
        SettingsError: The model does not have this attention form.
        OutputError: The folder cannot be written.
    """
    from esam_rt.export import AttentionForm, Precision, export_model

    form = AttentionForm(attention) if attention else None

    def tell(name: str) -> None:
        on_event(Writing(name))

    return export_model(row.name, checkpoint, folder, Precision(precision), form, tell).files


def exported(row: ModelSpec) -> list[str]:
    """List the exports of a model in the cache, made by this version from any checkpoint.

    Args:
        row: The model.

    Returns:
        Precision and attention form of each, such as ``fp16-concat``. Empty if the cache cannot be read.
    """
    folders = (cache_folder() / "onnx").glob(f"{row.name}-*-v{EXPORTER_VERSION}")
    try:
        return sorted({f.name.split("-", 2)[2].rpartition("-v")[0] for f in folders if (f / MANIFEST).is_file()})
    except OSError:
        return []
