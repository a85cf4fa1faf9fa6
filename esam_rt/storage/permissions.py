"""Checks that a file belongs to this user alone."""

from __future__ import annotations

import os


def is_only_ours(state: os.stat_result) -> bool:
    """Whether a file or folder is of this user or of the administrator, and nobody else may write it."""
    return os.name != "posix" or (state.st_uid in (os.geteuid(), 0) and not state.st_mode & 0o022)
