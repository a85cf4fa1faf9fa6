"""Finds the checkpoint of a model, and downloads it if needed."""

from __future__ import annotations

from pathlib import Path

from esam_rt.loading.events import SILENT, ModelListener
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.cache_dir import cache_folder


def checkpoint_of(row: ModelSpec, checkpoint: Path | None = None, listener: ModelListener = SILENT) -> Path:
    """The checkpoint of a model: the one given, else the one that ships, else the published one, downloaded if needed.

    Errors as of `fetch_checkpoint`.
    """
    if given := checkpoint or row.checkpoint:
        return given
    from esam_rt.loading.download import fetch_checkpoint  # 0.1 s and 16 MB that no other run needs

    return fetch_checkpoint(row, cache_folder() / "checkpoints", listener.downloaded)


def is_downloaded(row: ModelSpec) -> bool:
    """Whether the cache has a file of the published checkpoint's name and size."""
    if row.remote is None:
        return False
    try:
        return (cache_folder() / "checkpoints" / row.remote.file_name).stat().st_size == row.remote.size_bytes
    except OSError:
        return False
