"""Errors a user can meet: each says what was found, what was expected and what to do; each knows its exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

INTERRUPTED = 130  # the exit code after Ctrl-C and SIGTERM


class EsamError(Exception):
    """Base of all errors of esam-rt that a user can cause or mend."""

    exit_code: ClassVar[int] = 1


class InputError(EsamError, ValueError):
    """A photo, a folder or an array that cannot be used."""


class OutputError(EsamError, OSError):
    """A result that cannot be written: folder not writable, disk full."""


class SettingsError(EsamError, ValueError):
    """A setting, an option or a name that does not exist or is out of range."""

    exit_code = 2


class ModelError(EsamError):
    """A model file that is missing, broken or not what its name says."""

    exit_code = 3


class EngineError(EsamError):
    """An engine that cannot be built, loaded or fed."""

    exit_code = 3


class DecodingCancelledError(EsamError):
    """Decoding was stopped on purpose, because nobody waits for the result any more."""


class DeviceError(EsamError, RuntimeError):
    """A device that is missing, or out of memory."""

    exit_code = 4


class OutOfMemoryError(DeviceError):
    """A device that has not enough memory for a model or a batch; smaller ones may fit."""


class MissingDependencyError(EsamError, ImportError):
    """An optional package is not installed; the message names the pip command."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean a, b?`, or all the names where none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {', '.join(near)}?" if near else f" Known: {', '.join(known)}."
