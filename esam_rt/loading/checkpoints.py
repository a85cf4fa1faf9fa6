"""Finds the checkpoint of a model, and downloads it if needed."""

from __future__ import annotations

from pathlib import Path

from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.cache_dir import cache_folder


def checkpoint_of(row: ModelSpec, checkpoint: Path | None = None, on_event: OnEvent = ignore) -> Path:
    """Find the checkpoint of a model.

    Args:
        row: The model.
        checkpoint: The user's own file. It comes first.
        on_event: Gets ``Downloading`` events.

    Returns:
        ``checkpoint``, else the file that ships, else the published file in the cache.

    Raises:
        ModelError: The model has no checkpoint, or the download failed.
        OutputError: The cache cannot be written.
    """
    if given := checkpoint or row.checkpoint:
        return given
    from esam_rt.loading.download import fetch_checkpoint  # imports requests: 0.1 s and 16 MB that other runs save

    return fetch_checkpoint(row, cache_folder() / "checkpoints", on_event)


def expected_sha256(row: ModelSpec, checkpoint: Path | None = None) -> str:
    """Look up the SHA-256 of a checkpoint without a download.

    Args:
        row: The model.
        checkpoint: The user's own file.

    Returns:
        Hash of the file that ``checkpoint_of`` would return, in hexadecimal. Empty if the model has none.

    Raises:
        ModelError: The file cannot be read.
    """
    if file := checkpoint or row.checkpoint:
        return checkpoint_sha256(file)
    return row.remote.sha256 if row.remote else ""


def is_downloaded(row: ModelSpec) -> bool:
    """Check if the cache has the published checkpoint, by name and size.

    Args:
        row: The model.

    Returns:
        True if a file of that name and size is there. False also if the cache cannot be read.
    """
    if row.remote is None:
        return False
    try:
        return (cache_folder() / "checkpoints" / row.remote.file_name).stat().st_size == row.remote.size_bytes
    except OSError:
        return False
