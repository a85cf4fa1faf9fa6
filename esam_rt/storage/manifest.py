"""Folders of files that belong together: written as one, listed with their hashes, checked before use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esam_rt.errors import EsamError
from esam_rt.storage.atomic import TEMPORARY, output_error, sync_file, write_json
from esam_rt.storage.hashing import sha256_of

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
    """Remove temporary folders of killed processes.

    Args:
        folder: A folder that no other process writes to.
    """
    for leftover in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def listed_files(folder: Path, needed: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read the manifest of a folder.

    Args:
        folder: The folder.
        needed: Names of files that the manifest must list.

    Returns:
        Entries by file name. Empty if the manifest is missing or broken, or lacks a needed file.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict) or not all(isinstance(entry, dict) for entry in manifest.values()):
        return {}
    return manifest if manifest.keys() >= set(needed) else {}


def is_whole(folder: Path, needed: Collection[str]) -> bool:
    """Check that every listed file is as it was written.

    A file with the same size and time is not hashed: gigabytes take seconds, and the faults that this check finds
    (files cut off or overwritten) change size or time.

    Args:
        folder: The folder.
        needed: Names of files that the manifest must list.

    Returns:
        True if the manifest and all files are in order.
    """
    entries = listed_files(folder, needed)
    return bool(entries) and all(_is_as_written(folder / name, entry) for name, entry in entries.items())


def _entry(file: Path) -> dict[str, Any]:
    state = file.stat()
    return {"sha256": sha256_of(file), "size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns}


def _is_as_written(file: Path, entry: dict[str, Any]) -> bool:
    if not file.is_file() or file.is_symlink() or file.stat().st_size != entry.get("size_bytes"):
        return False
    return file.stat().st_mtime_ns == entry.get("mtime_ns") or sha256_of(file) == entry.get("sha256")
