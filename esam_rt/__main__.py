"""The command ``esam-rt``, also as ``python -m esam_rt``: signals and streams, the same for all commands."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from esam_rt.cli.address_space import is_lack_of_memory, limit_bytes, no_memory, out_of_memory, supervised
from esam_rt.cli.streams import own_stderr, visible
from esam_rt.errors import INTERRUPTED, DeviceError, SettingsError
from esam_rt.open_files import check_open_files, lack_of_open_files

HANG_UP = getattr(signal, "SIGHUP", None)  # Windows lacks it
STREAM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)


def main() -> None:
    """Run the command line. SIGTERM acts as Ctrl-C, and so does the end of the terminal, except after ``nohup``."""
    signal.signal(signal.SIGTERM, _interrupt)
    if HANG_UP is not None and signal.getsignal(HANG_UP) is not signal.SIG_IGN:
        signal.signal(HANG_UP, _hang_up)
    try:
        check_open_files()
    except SettingsError as e:
        _end(str(e), e.exit_code)
    threading.excepthook = _thread_failed
    own_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: a path may hold any bytes
    if limit_bytes() is None:
        _run()
    else:
        supervised(_run, _end)


def _run() -> None:
    """Run the command, and turn what ends it into one line."""
    try:
        from esam_rt.cli.app import app

        app()
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)
    except (MemoryError, ImportError, RuntimeError, OSError) as e:
        if (lack := lack_of_open_files(e)) is not None:
            _end(str(lack), lack.exit_code)
        if is_lack_of_memory(e):
            _end_without_memory()
        if not isinstance(e, OSError) or e.filename is not None or e.errno not in STREAM_ERRORS or sys.stdout is None:
            raise
        # No file name: the error is from stdout. Redirect it, so that the flush at the exit does not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end(f"stdout cannot be written ({e.strerror}); files that were written are whole", 1)
    finally:
        _ignore_ctrl_c()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Act as the current handler of Ctrl-C. A job in the background may ignore Ctrl-C; this does not."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or handler is no_memory:
        handler = signal.default_int_handler
    handler(number, frame)


def _hang_up(number: int, frame: FrameType | None) -> None:
    """Act as Ctrl-C, once: the shell and the system may both send it, and the second must not end the summary."""
    signal.signal(number, signal.SIG_IGN)
    _interrupt(number, frame)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of a thread that lacks open files, or memory under a limit: the main thread says it."""
    error = failure.exc_value
    is_limited = limit_bytes() is not None
    if error is None or not (lack_of_open_files(error) or (is_limited and is_lack_of_memory(error))):
        threading.__excepthook__(failure)


def _end(message: str, exit_code: int) -> NoReturn:
    _ignore_ctrl_c()
    print(f"error: {visible(message)}", file=sys.stderr)
    sys.exit(exit_code)


def _end_without_memory() -> NoReturn:
    print(f"error: {out_of_memory()}", file=sys.stderr)
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    os._exit(DeviceError.exit_code)  # without memory, the end of C++ objects and threads would abort


def _ignore_ctrl_c() -> None:
    """Ignore Ctrl-C while threads end; the exit code is known. SIGTERM then ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
