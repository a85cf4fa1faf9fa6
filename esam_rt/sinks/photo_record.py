"""One line of the journal: what a finished photo gave."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from esam_rt.entity_map import EntityMap
from esam_rt.errors import InputError
from esam_rt.sinks.output_names import output_stems


@dataclass(frozen=True)
class PhotoRecord:
    """name: the frame's. width, height: pixels. entities: COCO annotations as `EntityMap.to_coco` makes them, their ids
    left to `write_coco`. times_s: seconds a stage. stem: of the photo's files (`output_stems`), by default the name
    without its suffix. path: of the photo, without links; empty where it is not known."""

    name: str
    width: int
    height: int
    entities: list[dict[str, Any]]
    times_s: dict[str, float]
    stem: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        if not self.stem:
            object.__setattr__(self, "stem", output_stems([self.name])[self.name])

    @classmethod
    def of(cls, name: str, stem: str, result: EntityMap, path: str = "") -> PhotoRecord:
        """The record of a result."""
        height, width = result.labels.shape
        return cls(name, width, height, result.to_coco(), dict(result.times_s), stem, path)

    def to_json(self) -> str:
        """One line of ASCII JSON, without a line end."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> PhotoRecord:
        """The record that `to_json` wrote; `InputError` for any other text."""
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError) as e:
            found = line if len(line) <= 40 else line[:40] + "…"
            raise InputError(
                f"{found!r} is not a line of a run's journal; remove it and run again with --resume"
            ) from e
