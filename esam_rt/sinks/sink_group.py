"""SinkGroup: several sinks as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sinks.sink import RunInfo, close_all, outputs_of, write_all
from esam_rt.sources.frame import Frame


class SinkGroup:
    """Several sinks as one `Sink`. A run opens it, or a ``with`` statement if there is no run.

    Args:
        sinks: The sinks. A ``with`` statement needs those that have a folder.

    Example:
        >>> with SinkGroup([LabelMaps("out"), CocoJson("out")]) as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    def __init__(self, sinks: Sequence[FileSink]) -> None:
        self.sinks = sorted(sinks, key=lambda sink: sink.draws_on_image)
        self.outputs = tuple(outputs_of(sinks))
        self.draws_on_image = any(sink.draws_on_image for sink in sinks)
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            for sink in self.sinks:
                entered.enter_context(sink)
            self._entered = entered.pop_all()
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._entered.__exit__(t, e, tb)

    @property
    def look_at(self) -> Path | None:
        """File that a user should open first, or None."""
        return next((sink.look_at for sink in self.sinks if sink.look_at is not None), None)

    def open(self, run: RunInfo) -> None:
        """Open all sinks.

        Args:
            run: The run.
        """
        for sink in self.sinks:
            sink.open(run)

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write a frame to all sinks.

        Args:
            frame: The frame.
            entities: Its entities.

        Raises:
            OutputError: If a file cannot be written.
        """
        write_all(self.sinks, frame, entities)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Close all sinks.

        Args:
            summary: See `Sink.close`.

        Raises:
            OutputError: If a file cannot be written.
        """
        close_all(self.sinks, summary)
