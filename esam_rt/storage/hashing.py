"""SHA-256 of files, remembered for large ones."""

from __future__ import annotations

import contextlib
import hashlib
import stat
from pathlib import Path

from esam_rt.errors import ModelError, OutputError
from esam_rt.storage.atomic import write_json
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.json_files import bounded_json
from esam_rt.storage.keys import path_key
from esam_rt.storage.permissions import is_only_ours, make_own_folder, restrict_writing

REMEMBERED_BYTES = 64 << 20  # hashes of larger files are remembered between runs


def sha256_of(path: Path) -> str:
    """Hash a model file.

    Args:
        path: The file.

    Returns:
        SHA-256, hex.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise _unreadable(path, e) from e


def remembered_sha256(path: Path) -> str:
    """Hash a model file, or return the remembered hash if its size, times and inode are unchanged.

    Hashing ViT-H takes seconds. Files below ``REMEMBERED_BYTES`` are hashed each time. A remembered hash that others
    could have written is not used.

    Args:
        path: The file.

    Returns:
        SHA-256, hex.

    Raises:
        ModelError: If it cannot be read or is no regular file. Reading a pipe could wait for ever.
    """
    try:
        state = path.stat()
    except OSError as e:
        raise _unreadable(path, e) from e
    if not stat.S_ISREG(state.st_mode):
        raise ModelError(f"{path}: found a folder, pipe or device, expected a model file. Check the path.")
    if state.st_size < REMEMBERED_BYTES:
        return sha256_of(path)
    note = cache_folder() / "hashes" / f"{path_key(path)}.json"
    mark = {
        "size_bytes": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
        "inode": state.st_ino,
    }
    # A missing or broken note is written again.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if is_only_ours(note.parent.lstat()) and is_only_ours(note.lstat()):
            remembered = bounded_json(note)
            if {key: remembered[key] for key in mark} == mark:
                return str(remembered["sha256"])
    digest = sha256_of(path)
    with contextlib.suppress(OutputError, OSError):  # without a writable cache the file is hashed again next time
        make_own_folder(note.parent)
        write_json(note, mark | {"sha256": digest})
        restrict_writing(note)
    return digest


def _unreadable(path: Path, cause: OSError) -> ModelError:
    if isinstance(cause, FileNotFoundError):
        return ModelError(f"{path}: found no such file, expected a model file.")
    return ModelError(f"{path}: cannot be read ({cause.strerror}); expected a model file.")
