"""Engines that contain host code load from trusted folders only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_rt.errors import ModelError
from esam_rt.loading.engine_record import NAMES, SIDECAR
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.permissions import is_only_ours


def store_folder() -> Path:
    """Where engines are kept."""
    return cache_folder() / "engines"


def check_trusted(folder: Path) -> None:
    """ModelError unless engines that bring code for the CPU lie in the store, where nobody but the user and the
    administrator could have put or changed them."""
    if not folder.resolve().is_relative_to(store_folder().resolve()):
        raise ModelError(
            f"{folder}: found engines for other versions of TensorRT, which bring code for the CPU; expected such only "
            f"in your own cache. If you trust whoever built them, copy the folder into {store_folder()}."
        )
    for path in (folder, folder / SIDECAR, *(folder / name for name in NAMES)):
        if not is_only_ours(path.lstat()):
            raise ModelError(
                f"{path}: found engines for other versions of TensorRT, which bring code for the CPU, where others can "
                "write; expected them to be yours alone. Build them again: esam-rt build-engine --force."
            )


def restrict_writing(folder: Path, sidecar: Mapping[str, Any]) -> None:
    """Let nobody else write what `check_trusted` is to trust, whatever the umask."""
    if sidecar["options"].get("version_compatible"):
        for path in (folder, *folder.iterdir()):
            path.chmod(path.stat().st_mode & ~0o022)
