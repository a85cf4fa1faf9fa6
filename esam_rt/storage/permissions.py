"""Checks that a file belongs to this user alone."""

from __future__ import annotations

import os


def is_only_ours(state: os.stat_result) -> bool:
    """Check that nobody but this user and the administrator can write a file or folder.

    Args:
        state: Result of ``os.stat`` or ``os.lstat``.

    Returns:
        True if they own it and nobody else may write it. Always True on Windows.
    """
    return os.name != "posix" or (state.st_uid in (os.geteuid(), 0) and not state.st_mode & 0o022)
