"""Events of loading a model: a download, files that are written, engines that are built and tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Downloading:
    """A part of a checkpoint has arrived.

    Attributes:
        done_bytes: Bytes on the disk.
        total_bytes: Bytes of the whole file.
    """

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Reading:
    """A checkpoint is about to be read.

    Attributes:
        file_name: For example ``tiny.safetensors``.
    """

    file_name: str


@dataclass(frozen=True)
class Writing:
    """A graph is about to be written.

    Attributes:
        file_name: For example ``encoder.onnx``.
    """

    file_name: str


@dataclass(frozen=True)
class Building:
    """An engine is being built.

    Attributes:
        engine: File name, for example ``encoder.engine``.
        phase: What the library does now, in its own words. Empty at the start.
    """

    engine: str
    phase: str = ""


@dataclass(frozen=True)
class SelfTesting:
    """The engines of a model are about to be compared with ONNX Runtime.

    Attributes:
        model: Name of the model.
    """

    model: str


Event: TypeAlias = Downloading | Reading | Writing | Building | SelfTesting
OnEvent: TypeAlias = Callable[[Event], None]
"""Called in the thread that loads. An exception that it raises ends the loading."""


def ignore(event: Event) -> None:
    """Do nothing: the default of ``on_event``.

    Args:
        event: Any event.
    """
