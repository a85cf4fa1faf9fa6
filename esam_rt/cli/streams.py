"""Standard error: no control characters, no failure if it is gone, and without lines of libraries if wanted."""

from __future__ import annotations

import io
import logging
import os
import sys
import unicodedata
import warnings
from contextlib import suppress
from typing import ClassVar

_HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates of names that are not UTF-8, line separators
_TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of text


class _State:
    """Changes of this process by ``own_stderr``."""

    libraries: ClassVar[bool] = False  # file descriptor 2 belongs to libraries alone


def visible(text: str, kept: str = "") -> str:
    """Escape what a terminal would obey or hide, such as the escape codes in a file name.

    Args:
        text: Any text.
        kept: Characters that stay as they are.

    Returns:
        The text with escapes of Python, such as ``\\x1b``, in place of these characters.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or not _is_hidden(c) else _escaped(c) for c in text)


def own_stderr() -> None:
    """Write to a copy of file descriptor 2 from now on, so that ``silence_libraries`` can take the descriptor away.

    Everything but rich, whose color codes are wanted, loses control characters. Nothing happens without a descriptor.
    """
    with suppress(OSError, ValueError, AttributeError):  # stderr may be closed, or a stream of a test
        if sys.stderr.fileno() == 2:
            sys.stderr = _PlainStderr(_Stderr(os.dup(2), sys.stderr.encoding))
            _State.libraries = True


def silence_libraries() -> None:
    """Drop what libraries write to stderr by themselves: in C and C++, as warnings, and as log records.

    Nothing happens before ``own_stderr``: the process is then not ours.
    """
    if _State.libraries:
        warnings.simplefilter("ignore")
        logging.getLogger().addHandler(logging.NullHandler())  # else records of libraries go to stderr
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)


class _Stderr(io.TextIOWrapper):
    """Text to a file descriptor. A terminal that was closed is no error: the run goes on, or ends with its summary."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__(
            io.BufferedWriter(io.FileIO(descriptor, "w")), encoding, "backslashreplace", line_buffering=True
        )

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


class _PlainStderr(io.TextIOBase):
    """Text without control characters."""

    def __init__(self, stream: _Stderr) -> None:
        self.rich_proxied_file = stream  # rich writes there: its own codes are wanted

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.rich_proxied_file.encoding

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(visible(text, kept="\n\t"))
        return len(text)

    def flush(self) -> None:
        self.rich_proxied_file.flush()

    def fileno(self) -> int:
        return self.rich_proxied_file.fileno()

    def isatty(self) -> bool:
        return self.rich_proxied_file.isatty()


def _is_hidden(character: str) -> bool:
    return character in _TURNING or unicodedata.category(character) in _HIDDEN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
