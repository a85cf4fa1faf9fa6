"""The cache folder of esam-rt."""

from __future__ import annotations

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

from esam_rt.errors import OutputError

_log = logging.getLogger("esam_rt")
REMEDY = "Set ESAM_RT_CACHE to a folder that can be written."


def cache_folder() -> Path:
    """Name the cache folder. It may not exist yet.

    Returns:
        The folder in ``ESAM_RT_CACHE``, else the user's cache folder of this platform. If that one is missing and
        cannot be made, because the home folder is missing or read-only, it is ``private_folder``.

    Raises:
        OutputError: There is no temporary folder either.
    """
    if override := os.environ.get("ESAM_RT_CACHE"):
        return Path(override)
    try:
        folder = Path(platformdirs.user_cache_dir("esam-rt", appauthor=False))
    except RuntimeError:  # from platformdirs 4.5 on
        folder = Path("~")
    if not folder.is_absolute():  # the name of the home folder stays "~" for a user without one
        return private_folder("There is no home folder for the cache")
    return folder if _exists_or_can_be_made(folder) else private_folder(f"The cache {folder} cannot be made")


def private_folder(reason: str) -> Path:
    """Make the temporary folder that serves as the cache, and log one warning.

    It is the same for all processes of a user, so that later ones find the files. Nobody else can read or write it.

    Args:
        reason: Why the cache cannot be used: the beginning of a sentence.

    Returns:
        The folder.

    Raises:
        OutputError: There is no temporary folder that can be written.
    """
    try:
        folder = _private_folder()
    except OSError as e:
        raise OutputError(f"{reason}, and there is no temporary folder ({e.strerror}). {REMEDY}") from e
    _warn_once(f"{reason}; using {folder}. {REMEDY}")
    return folder


def _private_folder() -> Path:
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"esam-rt-{user}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        state = folder.lstat()  # somebody else may have made it
        is_private = os.name != "posix" or (state.st_uid == user and not state.st_mode & 0o077)
        if not stat.S_ISDIR(state.st_mode) or not is_private or not os.access(folder, os.W_OK):
            return _another_folder()
    return folder


@functools.cache
def _another_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="esam-rt-"))


def _exists_or_can_be_made(folder: Path) -> bool:
    """Check a folder. One that exists may be read-only: it may have all that is needed."""
    if os.path.isdir(folder):  # noqa: PTH112 - never raises
        return True
    there = next(p for p in folder.parents if os.path.lexists(p))
    return os.access(there, os.W_OK | os.X_OK)


@functools.cache
def _warn_once(message: str) -> None:
    _log.warning(message)
