"""Folders of files that belong together: written as one, listed with their hashes, checked before use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esam_rt.errors import EsamError
from esam_rt.storage.atomic import TEMPORARY, output_error, write_json
from esam_rt.storage.hashing import sha256_of

MANIFEST = "esam-rt.json"


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, which is made if need be; when the body succeeds, the files written there
    move to `folder`, with a manifest.

    An earlier manifest is removed first and the new one comes last, so that what an interrupt leaves is not taken for
    whole. Files of other names stay. OutputError where nothing can be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=TEMPORARY) as name:
            temporary = Path(name)
            yield temporary
            files = sorted(temporary.iterdir())
            for file in files:
                _sync(file)
            listed = {file.name: _entry(file) for file in files}
            (folder / MANIFEST).unlink(missing_ok=True)
            for file in files:
                file.replace(folder / file.name)
            write_json(folder / MANIFEST, listed)
    except OSError as e:
        raise e if isinstance(e, EsamError) else output_error(folder, e) from e


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in `folder`, which nobody else is writing to."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def listed_files(folder: Path, needed: Collection[str]) -> dict[str, dict[str, Any]]:
    """The manifest's entries by file; empty where there is no manifest, or one that lacks a needed file."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict) or not all(isinstance(entry, dict) for entry in manifest.values()):
        return {}
    return manifest if manifest.keys() >= set(needed) else {}


def is_whole(folder: Path, needed: Collection[str]) -> bool:
    """Whether every file is there as it was written. One of the same size and time is not hashed: gigabytes take
    seconds, and what this guards against, files cut off or overwritten, changes them."""
    entries = listed_files(folder, needed)
    return bool(entries) and all(_is_as_written(folder / name, entry) for name, entry in entries.items())


def _entry(file: Path) -> dict[str, Any]:
    state = file.stat()
    return {"sha256": sha256_of(file), "size_bytes": state.st_size, "mtime_ns": state.st_mtime_ns}


def _is_as_written(file: Path, entry: dict[str, Any]) -> bool:
    if not file.is_file() or file.is_symlink() or file.stat().st_size != entry.get("size_bytes"):
        return False
    return file.stat().st_mtime_ns == entry.get("mtime_ns") or sha256_of(file) == entry.get("sha256")


def _sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
