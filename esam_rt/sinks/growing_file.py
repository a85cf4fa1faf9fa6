"""GrowingFile: the base of sinks that write one file frame by frame, such as a recording or a video."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from esam_rt.entity_map import EntityMap
from esam_rt.errors import OutputError
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame


class GrowingFile(FileSink):
    """Base of sinks with one file that grows. The first frame makes it, so a run without frames leaves none."""

    needs_every_frame = True
    _has_begun = False

    @abstractmethod
    def append(self, frame: Frame, entities: EntityMap, is_first: bool) -> None:
        """Append a frame.

        Args:
            frame: The frame.
            entities: Its entities.
            is_first: The file must be made. Its folder is there.

        Raises:
            OSError: The file cannot be written.
        """

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the end of the file.

        Args:
            summary: The run as ``run.json`` holds it. Empty if there is no run.

        Raises:
            OSError: The file cannot be written.
        """

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Append a frame.

        Args:
            frame: The frame.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        is_first = not self._has_begun
        try:
            if is_first:
                self.folder.mkdir(parents=True, exist_ok=True)
            self.append(frame, entities, is_first)
        except OSError as e:  # FFmpeg's errors derive from it
            raise self._failed(e) from e
        self._has_begun = True

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the end of the file, if there is one.

        Args:
            summary: The run as ``run.json`` holds it.

        Raises:
            OutputError: If the file cannot be written.
        """
        if self._has_begun:
            self._has_begun = False
            try:
                self.finish(summary)
            except OSError as e:
                raise self._failed(e) from e

    def _failed(self, cause: OSError) -> OutputError:
        return OutputError(f"{self.file}: cannot be written ({cause}). Free space or choose another --out.")
