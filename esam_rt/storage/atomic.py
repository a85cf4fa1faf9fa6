"""Files that appear whole or not at all, and errors that say what to do when they cannot be written."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esam_rt.errors import EsamError, OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST}
TEMPORARY = ".esam-rt-"  # begins the names of files that are being written, or were by a process that was killed


def output_error(path: Path, cause: OSError) -> OutputError:
    """The `OutputError` for `path` that could not be written because of `cause`."""
    if cause.errno in _FULL:
        return OutputError(f"{path} cannot be written: the disk or quota is full; free some space or write elsewhere")
    if cause.errno in _FORBIDDEN:
        return OutputError(
            f"{path} cannot be written: no permission; change the folder's permissions or write elsewhere"
        )
    if cause.errno == errno.EROFS:
        return OutputError(f"{path} cannot be written: the file system is read-only; write to another folder")
    if cause.errno in _NOT_A_FOLDER:
        return OutputError(
            f"{path} cannot be written: a file stands where a folder is needed; remove it or write elsewhere"
        )
    if cause.errno == errno.EISDIR:
        return OutputError(
            f"{path} cannot be written: a folder stands where the file is needed; remove it or write elsewhere"
        )
    return OutputError(f"{path} cannot be written: {cause.strerror or cause}; write to another folder")


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """A temporary path beside `final`, with its suffix, to be written; renamed to `final` when the body succeeds.

    The folder of `final` is made where missing. The temporary file is synced before it is renamed, and removed on any
    error or interrupt: `final` is the old file or the whole new one. An `OSError` becomes `OutputError`.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # A leading dot, so that no reader of the folder takes it for a result; short, so that long names stay possible.
        temporary = final.with_name(f"{TEMPORARY}{secrets.token_hex(6)}{final.suffix}")
        try:
            yield temporary
            descriptor = os.open(temporary, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except EsamError:
        raise
    except OSError as e:
        raise output_error(final, e) from e


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; `OutputError` when it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; file names that are not UTF-8 (surrogate escapes) keep their bytes."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON in ASCII, with a final newline; NaN and infinity raise `ValueError`."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
