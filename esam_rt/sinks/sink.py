"""The protocol of a sink, and what a run tells its sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from esam_rt.entity_map import EntityMap
from esam_rt.errors import OutputError
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sources.frame import Frame


@dataclass(frozen=True)
class RunInfo:
    """A run, as its sinks see it.

    Attributes:
        folder: Output folder of the run.
        stem: Returns the path of a frame's files from the frame's name: relative, without suffix, unique in the run.
        records: Returns the records of all finished frames, also those of an interrupted run that is resumed.
        is_staging: True if the files are moved elsewhere. No path may then lead from one of them to the photos.
    """

    folder: Path
    stem: Callable[[str], str]
    records: Callable[[], Iterable[PhotoRecord]]
    is_staging: bool = False


class Sink(Protocol):
    """A place for entities. Each of its files appears whole or not at all.

    A run opens a sink, writes each frame in order from one thread, and closes it even if the run is interrupted or
    fails.
    A sink may have four more attributes. `FileSink` has defaults for them:

    - ``outputs``: names of its files and folders in the output folder. ``--overwrite`` removes them.
    - ``draws_on_image``: True if it draws on a disposable frame. It is then called after the others.
    - ``needs_every_frame``: True if one process has to write all frames, in order. A run on Ray refuses it.
    - ``look_at``: file that a user should open first, or None.
    """

    def open(self, run: RunInfo) -> None:
        """Prepare for a run.

        Args:
            run: The run.
        """
        ...

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write what belongs to one frame.

        Args:
            frame: The frame. Copy the image before you draw on it, unless the frame is disposable.
            entities: Its entities.

        Raises:
            OutputError: If a file cannot be written. The run then stops.
        """
        ...

    def close(self, summary: Mapping[str, Any]) -> None:
        """Finish what spans all frames.

        Args:
            summary: The run as ``run.json`` holds it. Empty if there is no run.

        Raises:
            OutputError: If a file cannot be written.
        """
        ...


def outputs_of(sinks: Iterable[object]) -> list[str]:
    """List the files and folders that sinks make.

    Args:
        sinks: Any sinks or classes of sinks.

    Returns:
        Names in the output folder, each once.
    """
    return list(dict.fromkeys(name for sink in sinks for name in getattr(sink, "outputs", ())))


def in_write_order(sinks: Iterable[Sink]) -> list[Sink]:
    """Sort sinks for `write_all`.

    Args:
        sinks: Any sinks.

    Returns:
        The sinks, those that draw on the image last.
    """
    return sorted(sinks, key=lambda sink: getattr(sink, "draws_on_image", False))


def close_all(sinks: Iterable[Sink], summary: Mapping[str, Any]) -> None:
    """Close every sink, then raise the first error.

    Args:
        sinks: Open sinks.
        summary: See `Sink.close`.

    Raises:
        OutputError: If a file cannot be written.
    """
    first: OutputError | None = None
    for sink in sinks:
        try:
            sink.close(summary)
        except OutputError as e:
            first = first or e
    if first is not None:
        raise first


def write_all(sinks: Sequence[Sink], frame: Frame, entities: EntityMap) -> None:
    """Write a frame to each sink. Only the last one may draw on the image.

    Args:
        sinks: Sinks as `in_write_order` sorts them.
        frame: The frame.
        entities: Its entities.
    """
    shared = replace(frame, disposable=False)
    for number, sink in enumerate(sinks, 1):
        sink.write(frame if number == len(sinks) else shared, entities)
