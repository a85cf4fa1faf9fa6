"""The limit of open files and connections of this process (``ulimit -n``)."""

from __future__ import annotations

import errno
import os

from esam_rt.errors import SettingsError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# A run of photos that writes all kinds of files has 16 open, with those that every process has.
NEEDED = 32


def check_open_files() -> None:
    """Check that this process may open ``NEEDED`` more files.

    Raises:
        SettingsError: If it may not.
    """
    ends: list[int] = []
    try:
        while len(ends) < NEEDED:
            ends += os.pipe()
    except OSError as e:
        raise lack_of_open_files(e) or e from None
    finally:
        for end in ends:
            os.close(end)


def lack_of_open_files(error: BaseException) -> SettingsError | None:
    """Tell if an error means that this process may not open more files.

    Args:
        error: Any error. Its causes are looked at too.

    Returns:
        The error to raise instead; None if the reason is another one.
    """
    cause: BaseException | None = error
    while cause is not None:
        if _is_lack(cause):
            limit = "low" if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return SettingsError(
                f"too many open files: the limit of this process is {limit}, and esam-rt needs {NEEDED} beside those "
                "that are open already. Raise the limit first: ulimit -n 1024."
            )
        cause = cause.__cause__
    return None


def _is_lack(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.EMFILE
    # Libraries that load others, and GDAL, have the words only.
    return isinstance(error, ImportError | OSError) and str(error).endswith(os.strerror(errno.EMFILE))
