"""Engines that contain host code load from trusted folders only."""

from __future__ import annotations

from pathlib import Path

from esam_rt.errors import ModelError
from esam_rt.loading.engine_record import RECORD, EngineRecipe
from esam_rt.networks import ENGINE_FILES
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.permissions import is_only_ours


def store_folder() -> Path:
    """Name the folder of the cache that holds engines.

    Returns:
        The folder. It may be missing.
    """
    return cache_folder() / "engines"


def check_trusted(folder: Path) -> None:
    """Check that nobody but the user and the administrator could have written engines that contain host code.

    Args:
        folder: Folder of version-compatible engines.

    Raises:
        ModelError: The folder is not in the cache, or other users can write to it.
    """
    if not folder.resolve().is_relative_to(store_folder().resolve()):
        raise ModelError(
            f"{folder}: version-compatible engines contain host code and load only from {store_folder()}. Copy the "
            "folder there if you trust whoever built them."
        )
    for path in (folder, folder / RECORD, *(folder / name for name in ENGINE_FILES)):
        if not is_only_ours(path.lstat()):
            raise ModelError(
                f"{path}: version-compatible engines contain host code, and other users can write to this file or "
                "folder. Build them again: esam-rt build-engine --force."
            )


def restrict_writing(folder: Path, recipe: EngineRecipe) -> None:
    """Let nobody else write engines that ``check_trusted`` must trust, for any umask.

    Args:
        folder: Folder of engines.
        recipe: How they were made. Only version-compatible engines are changed.
    """
    if recipe.is_version_compatible:
        for path in (folder, *folder.iterdir()):
            path.chmod(path.stat().st_mode & ~0o022)
