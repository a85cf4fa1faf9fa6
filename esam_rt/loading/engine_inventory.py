"""The engines and library caches on this machine: a list, a check of all, a clean-up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esam_rt.errors import EsamError
from esam_rt.loading import library_caches
from esam_rt.loading.engine_cache import outdated, remove, stored, verify
from esam_rt.loading.engine_record import checked
from esam_rt.storage.keys import folder_bytes


@dataclass(frozen=True)
class StoredEngines:
    """A folder of engines in the cache. Fields of a damaged record are ``None``.

    Attributes:
        folder: Where the engines are.
        model: Name of the model.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        backend_version: Version of the library.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        built: Time of the build, ISO 8601, UTC.
        runs_on: Compute capabilities, or the name of the GPU.
        size_bytes: Bytes of all files.
        why_not: Why no run can use them; ``None`` if one can.
    """

    folder: str
    model: str | None
    backend: str | None
    backend_version: str | None
    precision: str | None
    built: str | None
    runs_on: list[str]
    size_bytes: int
    why_not: str | None

    def to_json(self) -> dict[str, Any]:
        """Convert for ``--json``.

        Returns:
            A plain dict.
        """
        return asdict(self)


@dataclass(frozen=True)
class PrunedFolder:
    """A folder that was removed, would be in a dry run, or was kept because it is in use.

    Attributes:
        folder: The folder.
        why: The reason.
        freed_bytes: Freed bytes; 0 in a dry run and for a folder that was kept.
    """

    folder: Path
    why: str
    freed_bytes: int


def list_engines() -> list[StoredEngines]:
    """List the engines in the cache.

    Returns:
        One entry for each folder.

    Raises:
        OutputError: The cache cannot be read.
    """
    return [_stored_engines(folder) for folder in stored()]


def verify_engines() -> Iterator[tuple[Path, str | None]]:
    """Compare the engines in the cache with their hashes.

    Yields:
        Each folder, and what is wrong or ``None``.

    Raises:
        OutputError: The cache cannot be read.
    """
    for folder in stored():
        yield folder, verify(folder)


def prune_engines(everything: bool = False, dry_run: bool = False) -> Iterator[PrunedFolder]:
    """Remove engines and library caches that no run can use: damaged, or of other versions.

    Args:
        everything: Remove the others too.
        dry_run: Remove nothing.

    Yields:
        Each removed folder.

    Raises:
        OutputError: The cache cannot be read, or a folder cannot be removed.
    """
    for folder in stored():
        why = "removing all" if everything else outdated(folder) or verify(folder)
        if why:
            size = 0 if dry_run else remove(folder)
            yield PrunedFolder(folder, "kept, it is being built" if size is None else why, size or 0)
    why = "removing all" if everything else "its library version is not installed"
    for folder, size in library_caches.prune(everything, dry_run):
        yield PrunedFolder(folder, why, 0 if dry_run else size)


def _stored_engines(folder: Path) -> StoredEngines:
    try:
        record = checked(folder).record
    except EsamError:
        fields: dict[str, Any] = dict.fromkeys(("model", "backend", "backend_version", "precision", "built"))
        fields["runs_on"] = ["?"]
    else:
        fields = {
            "model": record.model,
            "backend": record.backend,
            "backend_version": record.backend_version,
            "precision": record.precision,
            "built": record.built,
            "runs_on": record.runs_on_names,
        }
    return StoredEngines(str(folder), size_bytes=folder_bytes(folder), why_not=outdated(folder), **fields)
