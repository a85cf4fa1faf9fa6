"""What a run keeps of a finished photo, one line of its journal, and where the photo's files go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from ..entities import EntityMap
from ..errors import InputError

SUFFIXES = (".png", ".jpg", ".js")  # of all files that are made of a photo: labels, overlays, report


def output_stems(names: Sequence[str]) -> dict[str, str]:
    """Where the files of each photo go: the photo's name without its suffix, `sub/a.jpg` -> `sub/a`.

    The suffix stays where two files could meet: another photo of `names` has the same name without suffix (`a.jpg` and
    `a.png`), or is itself called like that (`a.jpg.png` beside `a.jpg`), or lies in a folder that is called like one of
    the files (`a.png/b.jpg` beside `a.jpg`). Upper and lower case count as the same, as on some file systems. Give all
    photos of a run, so that a resumed run finds the same stems.
    """
    bare = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    count = Counter(stem.casefold() for stem in bare.values())
    whole = {name.casefold() for name in names}
    folders = {str(folder).casefold() for name in names for folder in PurePosixPath(name).parents}

    def is_taken(stem: str) -> bool:
        return count[stem] > 1 or stem in whole or any(stem + suffix in folders for suffix in SUFFIXES)

    return {name: name if is_taken(stem.casefold()) else stem for name, stem in bare.items()}


@dataclass(frozen=True)
class PhotoRecord:
    """name: the frame's. width, height: pixels. entities: COCO annotations as `EntityMap.to_coco` makes them, their ids
    left to `write_coco`. times_s: seconds a stage. stem: of the photo's files (`output_stems`), by default the name
    without its suffix."""

    name: str
    width: int
    height: int
    entities: list[dict[str, Any]]
    times_s: dict[str, float]
    stem: str = ""

    def __post_init__(self) -> None:
        if not self.stem:
            object.__setattr__(self, "stem", output_stems([self.name])[self.name])

    @classmethod
    def of(cls, name: str, stem: str, result: EntityMap) -> PhotoRecord:
        """The record of a result."""
        height, width = result.labels.shape
        return cls(name, width, height, result.to_coco(), dict(result.times_s), stem)

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
