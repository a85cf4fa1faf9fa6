"""FileSink: the base of sinks that write files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.output_names import StemMaker
from esam_rt.sinks.photo_record import PhotoRecord, RecordSpool, place_of
from esam_rt.sinks.sink import RunInfo
from esam_rt.sources.frame import Frame


class FileSink(ABC):
    """Base of sinks that write files. A run opens it, or a ``with`` statement if there is no run.

    Args:
        folder: Folder for the files. Default: the folder of the run. A ``with`` statement needs it.

    Attributes:
        outputs: Names of the files and folders that the sink makes in its folder.
        file_name: Name of its file, if it makes one file of all frames. Empty for other sinks.
        draws_on_image: True if the sink draws on disposable frames.
        needs_every_frame: True if one process has to write all frames, in order.
    """

    outputs: tuple[str, ...] = ()
    file_name: str = ""
    draws_on_image: ClassVar[bool] = False
    needs_every_frame: ClassVar[bool] = False

    def __init__(self, folder: Path | str | None = None) -> None:
        self._given = None if folder is None else Path(folder)
        self._run: RunInfo | None = None
        self._spool: RecordSpool | None = None

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return a sink that writes to one path.

        Args:
            path: Any name of a file if the sink makes one file, else one of its ``outputs``.
        """
        sink = cls(path.parent)
        if cls.file_name:
            sink.file_name, sink.outputs = path.name, (path.name,)
        return sink

    def __enter__(self) -> Self:
        if self._given is None:
            raise ValueError(f"{type(self).__name__}() has no folder. Pass one: {type(self).__name__}('out').")
        self._spool = RecordSpool()
        self.open(RunInfo(self._given, StemMaker(), self._spool.records))
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close({})
        finally:
            if self._spool is not None:
                self._spool.close()

    def open(self, run: RunInfo) -> None:
        """Remember the run.

        Args:
            run: The run.
        """
        self._run = run

    @abstractmethod
    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write what belongs to one frame.

        Args:
            frame: The frame.
            entities: Its entities.
        """

    def close(self, summary: Mapping[str, Any]) -> None:  # noqa: B027 - most sinks have nothing to close
        """Do nothing: no file spans all frames.

        Args:
            summary: The run as ``run.json`` holds it.
        """

    @property
    def run(self) -> RunInfo:
        """The run.

        Raises:
            ValueError: If the sink is not open.
        """
        if self._run is None:
            raise ValueError(f"{type(self).__name__} is not open. Use it in a with statement, or call open() first.")
        return self._run

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self._given or self.run.folder

    @property
    def file(self) -> Path:
        """File of a sink that makes one file of all frames."""
        return self.folder / self.file_name

    @property
    def look_at(self) -> Path | None:
        """File that a user should open first, or None."""
        return None

    def path(self, kind: str, name: str, suffix: str) -> Path:
        """Return the path of a frame's file.

        Args:
            kind: Folder of such files, such as ``labels``.
            name: Name of the frame.
            suffix: Suffix of the file, one of `output_names.SUFFIXES`.

        Returns:
            ``<folder>/<kind>/<stem><suffix>``.
        """
        return self.folder / kind / f"{self.run.stem(name)}{suffix}"

    def remember(self, frame: Frame, entities: EntityMap) -> None:
        """Keep the record of a frame for `close`. A run keeps its own records, so nothing happens in a run.

        Args:
            frame: The frame.
            entities: Its entities.
        """
        if self._spool is not None:
            path = "" if frame.path is None else os.path.realpath(frame.path)
            self._spool.add(PhotoRecord.of(frame.name, self.run.stem(frame.name), entities, path, place_of(frame)))
