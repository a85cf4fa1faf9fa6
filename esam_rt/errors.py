"""Errors that a user can meet. Each states what was found, what was expected and what to do; each has an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

INTERRUPTED = 130  # exit code after Ctrl-C and SIGTERM


class EsamError(Exception):
    """Base of all errors that a user can cause or mend.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code: ClassVar[int] = 1


class InputError(EsamError, ValueError):
    """A photo, a folder or an array cannot be used."""


class OutputError(EsamError, OSError):
    """A result cannot be written: the folder is read-only, or the disk is full."""


class SettingsError(EsamError, ValueError):
    """A setting, an option or a name is unknown or out of range."""

    exit_code = 2


class ModelError(EsamError):
    """A model file is missing, damaged, or of another model."""

    exit_code = 3


class EngineError(EsamError):
    """An engine cannot be built, loaded or fed."""

    exit_code = 3


class DecodingCancelledError(EsamError):
    """Decoding was stopped on purpose, because nobody waits for the result any more."""


class DeviceError(EsamError, RuntimeError):
    """A device is missing, or out of memory."""

    exit_code = 4


class OutOfMemoryError(DeviceError):
    """A device lacks memory for a model or a batch. A smaller one may fit."""


class MissingDependencyError(EsamError, ImportError):
    """An optional package is not installed. The message has the pip command."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest names for an error message.

    Args:
        name: An unknown name.
        known: All valid names.

    Returns:
        Text such as ``Did you mean a, b?``, or all names if none is near. It begins with a space.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else f" Known: {', '.join(known)}."
