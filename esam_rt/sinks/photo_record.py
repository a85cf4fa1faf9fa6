"""PhotoRecord: one line of the journal, written when a photo is finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from tempfile import TemporaryFile
from typing import IO, Any

from esam_rt.entity_map import EntityMap
from esam_rt.errors import InputError
from esam_rt.sources.frame import Frame
from esam_rt.sources.raster import RasterWindow

_LINE_BEGIN, _JSON = '{"name":', json.JSONDecoder()


@dataclass(frozen=True)
class PhotoRecord:
    """Result of one photo, without its pixels.

    Attributes:
        name: Name of the frame.
        width: Width of the photo, pixels.
        height: Height of the photo, pixels.
        entities: COCO annotations from `EntityMap.to_coco`. `CocoJson` renumbers them.
        times_s: Seconds by stage, as in `EntityMap.times_s`, and ``total``.
        stem: Path of the photo's files, relative and without suffix (`output_stems`).
        path: Path of the photo without links. Empty if it is unknown.
        complete: False if a deadline ended the work before all prompts were decoded.
        completed_stages: Modules that had all of their prompts, such as ``mmg``.
        prompts_decoded: Number of prompts that were decoded.
        place: ``offset_xy`` and ``core_xyxy`` of a window of a raster, see `RasterWindow`. None for other frames.
    """

    name: str
    width: int
    height: int
    entities: list[dict[str, Any]]
    times_s: dict[str, float]
    stem: str
    path: str = ""
    complete: bool = True
    completed_stages: list[str] = field(default_factory=list)
    prompts_decoded: int = 0
    place: dict[str, list[int]] | None = None

    @classmethod
    def of(
        cls, name: str, stem: str, result: EntityMap, path: str = "", place: dict[str, list[int]] | None = None
    ) -> PhotoRecord:
        """Make the record of a result.

        Args:
            name: Name of the frame.
            stem: Path of the photo's files, without suffix.
            result: Entities of the photo.
            path: Path of the photo without links.
            place: Place in a raster.

        Returns:
            The record.
        """
        height, width = result.labels.shape
        stages = [stage.name.lower() for stage in result.completed_stages]
        return cls(
            *(name, width, height, result.to_coco(), dict(result.times_s), stem, path),
            *(result.complete, stages, result.prompts_decoded, place),
        )

    def to_json(self) -> str:
        """Return one line of ASCII JSON, without a line end."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> PhotoRecord:
        """Read a line that `to_json` wrote.

        Args:
            line: The line.

        Returns:
            The record.

        Raises:
            InputError: If the line is something else.
        """
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError) as e:
            found = line if len(line) <= 40 else line[:40] + "…"
            raise InputError(
                f"{found!r} is not a line of a run's journal. Remove the line and run again with --resume."
            ) from e


def place_of(frame: Frame) -> dict[str, list[int]] | None:
    """Return the place of a frame in its raster, or None if it is in no raster.

    Args:
        frame: Any frame.
    """
    if not isinstance(frame.header, RasterWindow):
        return None
    return {"offset_xy": list(frame.header.offset_xy), "core_xyxy": list(frame.header.core_xyxy)}


def name_of_line(line: str) -> str:
    """Read the name of a record, without the rest of the line.

    Args:
        line: A line that `PhotoRecord.to_json` wrote.

    Raises:
        InputError: If the line is something else.
    """
    try:
        name, _ = _JSON.raw_decode(line, len(_LINE_BEGIN)) if line.startswith(_LINE_BEGIN) else (None, 0)
    except ValueError:
        name = None
    return name if isinstance(name, str) else PhotoRecord.from_json(line).name


class RecordSpool:
    """Records in a temporary file, for a sink without a run. Memory holds one record at a time."""

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def add(self, record: PhotoRecord) -> None:
        """Append a record.

        Args:
            record: The record.
        """
        if self._file is None:
            self._file = TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - open until close()
        self._file.write(record.to_json() + "\n")

    def records(self) -> Iterator[PhotoRecord]:
        """Read the records from the first one on."""
        if self._file is not None:
            self._file.seek(0)
            yield from map(PhotoRecord.from_json, self._file)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
