"""Checks that a file belongs to this user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from esam_rt.errors import OutputError


class UntrustedFolderError(OutputError):
    """A folder of the cache belongs to another user, or others can write to it."""


def is_only_ours(state: os.stat_result) -> bool:
    """Check that nobody but this user and the administrator can write a file or folder.

    Args:
        state: Result of ``os.stat`` or ``os.lstat``.

    Returns:
        True if they own it and nobody else may write it. Always True on Windows.
    """
    return os.name != "posix" or (state.st_uid in (os.geteuid(), 0) and not state.st_mode & 0o022)


def restrict_writing(path: Path) -> None:
    """Let nobody else write a file or folder of this user, for any umask. Files of other users stay as they are.

    Args:
        path: The file or folder. A link stays.

    Raises:
        OSError: The system refuses.
    """
    state = path.lstat()
    if not stat.S_ISLNK(state.st_mode) and not is_only_ours(state) and state.st_uid == os.geteuid():
        path.chmod(stat.S_IMODE(state.st_mode) & ~0o022)


def make_own_folder(folder: Path) -> None:
    """Make a folder that nobody else can write to. Its parents are made as the umask says.

    Args:
        folder: The folder. If it exists, it loses the permission of others.

    Raises:
        OSError: The folder cannot be made.
        UntrustedFolderError: It belongs to somebody else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    restrict_writing(folder)
    if not is_only_ours(folder.stat()):
        raise UntrustedFolderError(
            f"{folder}: others can write this folder, so its content is not trusted. Set ESAM_RT_CACHE to a folder of "
            "your own."
        )
