"""Folders of files that belong together: written as one, listed with their hashes, checked before use."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esam_rt.errors import EsamError, ModelError
from esam_rt.storage.atomic import TEMPORARY, output_error, remove, sync_file, write_json
from esam_rt.storage.hashing import remembered_sha256, sha256_of
from esam_rt.storage.json_files import bounded_json
from esam_rt.storage.permissions import is_only_ours

MANIFEST = "esam-rt.json"


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """Write files that belong together. Their manifest is written last.

    When the body succeeds, the files move into ``folder``. An older manifest is removed first, so an interrupted move
    never looks complete. Files with other names stay.

    Args:
        folder: Folder for the files. It is made if it is missing.

    Yields:
        A temporary folder inside ``folder``. Write the files there.

    Raises:
        OutputError: If the files cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=TEMPORARY) as name:
            temporary = Path(name)
            yield temporary
            files = sorted(temporary.iterdir())
            for file in files:
                sync_file(file)
            listed = {file.name: _entry(file) for file in files}
            (folder / MANIFEST).unlink(missing_ok=True)
            for file in files:
                file.replace(folder / file.name)
            write_json(folder / MANIFEST, listed)
    except OSError as e:
        raise e if isinstance(e, EsamError) else output_error(folder, e) from e


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders of killed processes.

    Args:
        folder: A folder that no other process writes to.

    Raises:
        OutputError: If one cannot be removed.
    """
    for leftover in folder.glob(f"{TEMPORARY}*"):
        remove(leftover)


def listed_files(folder: Path, needed: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read the manifest of a folder.

    Args:
        folder: The folder.
        needed: Names of files that the manifest must list.

    Returns:
        Entries by file name. Empty if the manifest is missing or broken, lacks a needed file, or names one elsewhere.
    """
    try:
        manifest = bounded_json(folder / MANIFEST)
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict) or not all(isinstance(entry, dict) for entry in manifest.values()):
        return {}
    if not all(name and Path(name).name == name for name in manifest):
        return {}
    return manifest if manifest.keys() >= set(needed) else {}


def is_whole(folder: Path, needed: Collection[str]) -> bool:
    """Check that every listed file is as it was written, and that nobody else could have written it.

    Each file is hashed. Hashes of large files are remembered; see ``remembered_sha256``.

    Args:
        folder: The folder.
        needed: Names of files that the manifest must list.

    Returns:
        True if the manifest and all files are in order.
    """
    entries = listed_files(folder, needed)
    try:
        return (
            bool(entries)
            and all(is_only_ours(path.stat()) for path in (folder.parent, folder, folder / MANIFEST))
            and all(_is_as_written(folder / name, entry) for name, entry in entries.items())
        )
    except (OSError, ModelError):  # a file went away meanwhile, or cannot be read
        return False


def _entry(file: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(file), "size_bytes": file.stat().st_size}


def _is_as_written(file: Path, entry: dict[str, Any]) -> bool:
    state = file.lstat()
    if not stat.S_ISREG(state.st_mode) or not is_only_ours(state) or state.st_size != entry.get("size_bytes"):
        return False
    return remembered_sha256(file) == entry.get("sha256")
