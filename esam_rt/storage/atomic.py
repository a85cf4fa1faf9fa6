"""Files that appear whole or not at all, and errors that tell the user how to fix a failed write."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esam_rt.errors import EsamError, OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST}
TEMPORARY = ".esam-rt-"  # prefix of files that are being written, also those that a killed process left


def output_error(path: Path, cause: OSError) -> OutputError:
    """Explain why a file cannot be written.

    Args:
        path: The file.
        cause: Error of the system.

    Returns:
        The error to raise.
    """
    if cause.errno in _FULL:
        return OutputError(f"{path} cannot be written: the disk or quota is full; free some space or write elsewhere.")
    if cause.errno in _FORBIDDEN:
        return OutputError(
            f"{path} cannot be written: no permission; change the folder's permissions or write elsewhere."
        )
    if cause.errno == errno.EROFS:
        return OutputError(f"{path} cannot be written: the file system is read-only; write to another folder.")
    if cause.errno in _NOT_A_FOLDER:
        return OutputError(
            f"{path} cannot be written: a file stands where a folder is needed; remove it or write elsewhere."
        )
    if cause.errno == errno.EISDIR:
        return OutputError(
            f"{path} cannot be written: a folder stands where the file is needed; remove it or write elsewhere."
        )
    return OutputError(f"{path} cannot be written: {cause.strerror or cause}; write to another folder.")


def make_folder(path: Path) -> None:
    """Make a folder and its parents if they are missing.

    Args:
        path: The folder.

    Raises:
        OutputError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise output_error(path, e) from e


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists.

    Args:
        path: The file, link or folder. Targets of links stay.

    Raises:
        OutputError: If it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(f"{path} cannot be removed: {e.strerror}; remove it or choose another folder.") from e


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk.

    Args:
        path: The file.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    The temporary file lies beside the final one and has its suffix. When the body succeeds, it is synced and renamed.
    On an error or an interrupt it is removed, and an older file stays. A missing folder is made.

    Args:
        final: Path of the finished file.

    Yields:
        Path of the temporary file.

    Raises:
        OutputError: If the system refuses to write.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # The dot hides the file from readers of the folder. The name is short, so that long names stay possible.
        temporary = final.with_name(f"{TEMPORARY}{secrets.token_hex(6)}{final.suffix}")
        try:
            yield temporary
            sync_file(temporary)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except EsamError:
        raise
    except OSError as e:
        raise output_error(final, e) from e


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Args:
        path: The file.
        data: Its content.

    Raises:
        OutputError: If it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8, whole or not at all.

    Args:
        path: The file.
        text: Its content. See ``utf8_text`` for surrogates.

    Raises:
        OutputError: If it cannot be written.
    """
    write_bytes(path, utf8_text(text).encode())


def utf8_text(text: str) -> str:
    """Replace what UTF-8 cannot hold.

    Args:
        text: Any text. Names of files that are not UTF-8 have surrogates.

    Returns:
        The text with escapes of Python, such as ``\\udcff``, in place of surrogates.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON in ASCII with a final newline, whole or not at all.

    Args:
        path: The file.
        value: Value to write.

    Raises:
        OutputError: If the file cannot be written.
        ValueError: If the value holds NaN or infinity.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
