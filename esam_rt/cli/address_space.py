"""A run within a limit of address space (``ulimit -v``), which some libraries answer with an abort."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from esam_rt.errors import DeviceError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_FORWARDED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def limit_bytes() -> int | None:
    """Return the limit of address space of this process; None without one."""
    if resource is None or not hasattr(os, "fork"):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def supervised(work: Callable[[], None], end: Callable[[str, int], NoReturn]) -> None:
    """Do the work of the command in a child process, and say so if it dies from the limit.

    Without memory, OpenBLAS sends Ctrl-C to itself, LLVM and ONNX Runtime abort. No Python code of the same process can
    turn that into an error.

    Args:
        work: The command. It ends by returning, or by SystemExit.
        end: Prints an error and exits with a code.
    """
    words = _file_of_libraries()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # the terminal sends Ctrl-C to the parent alone, which forwards it once
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        with suppress(OSError):
            os.dup2(words.fileno(), 2)
        signal.signal(signal.SIGINT, no_memory)
        work()
        return
    forwarded: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.append(number)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM if number == signal.SIGINT else number)

    for number in _FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, forward)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0 and not forwarded:
        end(out_of_memory(), DeviceError.exit_code)
    words.seek(0)
    with suppress(OSError):
        if code != DeviceError.exit_code:  # else the error says it in one line
            os.write(2, words.read())
    sys.exit(code if code >= 0 else 128 - code)


def is_lack_of_memory(error: BaseException) -> bool:
    """Check if an exception that is not ours means that the memory ended.

    Args:
        error: The exception.

    Returns:
        True for MemoryError, for an error of the system, and under a limit for libraries and threads that do not start.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if limit_bytes() is None or isinstance(error, ModuleNotFoundError):
        return False
    # llvmlite raises an OSError without number if its library does not load.
    does_not_load = isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is None)
    return does_not_load or "can't start new thread" in str(error)


def no_memory(number: int, frame: FrameType | None) -> NoReturn:
    """Handle the Ctrl-C that OpenBLAS sends to its own process if its threads do not start.

    Args:
        number: Not used.
        frame: Not used.

    Raises:
        MemoryError: Always. The parent forwards a user's Ctrl-C as SIGTERM.
    """
    raise MemoryError("OpenBLAS cannot start its threads")


def _file_of_libraries() -> IO[bytes]:
    """A file for what libraries print: it is shown at the end, but not if they abort."""
    try:
        return tempfile.TemporaryFile()
    except OSError:  # there is no temporary folder
        return Path(os.devnull).open("r+b")


def out_of_memory() -> str:
    """Say that the memory ended, and what to do."""
    limit = limit_bytes()
    if limit is None:
        return "out of memory; leave out large photos with --max-megapixels, or use a smaller model."
    return (
        f"out of memory: the address space is limited to {limit / 1e6:,.0f} MB. Raise it with ulimit -v; "
        "esam-rt with tiny needs 2,000 MB on two cores, and more on more cores."
    )
