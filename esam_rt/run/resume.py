"""The output folder of a run of photos: its journal, and the checks of a resumed run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from esam_rt.errors import SettingsError
from esam_rt.run.output_folder import ERRORS, PHOTOS, PROFILE, RUN, OutputFolder
from esam_rt.sinks.photo_record import PhotoRecord, name_of_line
from esam_rt.sinks.sink import outputs_of
from esam_rt.sinks.sink_table import SINKS
from esam_rt.storage.atomic import make_folder, remove, write_text
from esam_rt.storage.jsonl import lines_at, read_lines, read_lines_with_starts


@dataclass(frozen=True)
class Place:
    """Place of a photo and of its output files.

    Attributes:
        stem: Path of its files in the output folder, without suffix.
        path: Path of the photo without links. Empty if it is unknown.
    """

    stem: str
    path: str


class RunFolder(OutputFolder):
    """The output folder of a run of photos.

    Args:
        path: The folder. It may be missing.
        outputs: Names of files and folders of sinks that are not in the table of sinks.

    Attributes:
        is_staging: True if the files are moved elsewhere.
    """

    is_staging = False

    def __init__(self, path: Path, outputs: Sequence[str] = ()) -> None:
        known = outputs_of(SINKS.values())
        self.outputs = list(dict.fromkeys([*known, *outputs]))
        # Removed in this order: without the journal, no photo counts as finished whose files are gone.
        owned = [PHOTOS, *self.outputs, ERRORS, PROFILE, RUN]
        super().__init__(path, owned, RUN, "esam-rt", journal=PHOTOS)
        self._ranks: dict[str, int] | None = None

    def make(self) -> None:
        """Make the folder if it is missing.

        Raises:
            OutputError: If it cannot be made.
        """
        make_folder(self.path)

    def staging(self) -> AbstractContextManager[None]:
        """Keep the place of files that are on their way. These files lie in their place already."""
        return nullcontext()

    def check_stem(self, stem: str) -> None:
        """Check that the folder can hold the files of a frame. A folder can: `output_stems` cares for it.

        Args:
            stem: Path of the files, without suffix.
        """

    def publish(self) -> None:
        """Bring the files of a finished frame to their place. They are there already."""

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record of a run that ends, after all other files.

        Args:
            record: The record, with ``program``.

        Raises:
            OutputError: If it cannot be written.
        """
        self.write_record(record)

    def in_order_of(self, names: Iterable[str]) -> None:
        """Let `records` follow the source: a resumed run, and one of many machines, then end with the same files.

        Args:
            names: Names of all photos, in the order of the source.
        """
        self._ranks = {name: rank for rank, name in enumerate(names)}

    def records(self) -> Iterator[PhotoRecord]:
        """Read the journal, in the order of the source if it is known, else as it was written.

        A photo may have several lines, if two machines without a common lock processed it. The first one counts. Memory
        holds one record, and 8 bytes a photo.

        Yields:
            The record of each finished photo.

        Raises:
            InputError: If a line is no record.
        """
        if self._ranks is None:
            seen: set[str] = set()
            for record in map(PhotoRecord.from_json, self.lines()):
                if record.name not in seen:
                    seen.add(record.name)
                    yield record
            return
        starts = np.full(len(self._ranks), -1, np.int64)
        for start, line in read_lines_with_starts(self.journal):
            rank = self._ranks.get(name_of_line(line))
            if rank is not None and starts[rank] < 0:
                starts[rank] = start
        found: list[int] = starts[starts >= 0].tolist()
        if found:
            yield from map(PhotoRecord.from_json, lines_at(self.journal, found))

    def sort_errors(self) -> None:
        """Bring ``errors.jsonl`` into the order of the source, if photos ended in another one.

        Raises:
            OutputError: If it cannot be written.
        """
        path, ranks = self.path / ERRORS, self._ranks or {}
        lines = list(read_lines(path))
        ordered = sorted(lines, key=lambda line: ranks.get(json.loads(line)["name"], 0))
        if ordered != lines:
            write_text(path, "".join(f"{line}\n" for line in ordered))

    def begin(self, earlier: Mapping[str, Any] | None, record: dict[str, Any], now: Mapping[str, Place] | None) -> None:
        """Continue or remove an earlier run, and write the record of this one.

        Args:
            earlier: Record of the earlier run, as `choose` returns it.
            record: Record of this run. A resumed run takes over ``started``.
            now: The photos by name, to resume the earlier run. None removes the earlier run.

        Raises:
            SettingsError: If the earlier run cannot be resumed.
            InputError: If its journal is broken.
            OutputError: If the folder cannot be changed.
        """
        if earlier is not None and now is not None:
            self.check_same(earlier, record)
            for done in self.records():
                self._check_photo(done, now)
            record["started"] = earlier.get("started", record["started"])
            remove(self.path / ERRORS)  # photos that failed are tried again
            self.mend()
        elif earlier is not None:
            self.clear()
        else:
            self.remove_temporary()  # of a run that was killed before it wrote its record
        self.write_record(record)

    def _check_photo(self, done: PhotoRecord, now: Mapping[str, Place]) -> None:
        """Check that a finished photo is found again: the same file, under the same name, with the same output files.

        A photo that was renamed would be processed twice, and its first entities would stay in the results.
        """
        name, journal = done.name, self.shown(self.journal)
        restart = "start again with --overwrite or another --out."
        if name not in now:
            like = next((other for other in now if PurePosixPath(other).name == PurePosixPath(name).name), None)
            raise SettingsError(
                f"{journal}: {name} is finished but not among the photos, found {like or f'{len(now)} others'}. "
                f"Give the photos as before, or {restart}"
            )
        if now[name].path != done.path:
            raise SettingsError(
                f"{journal}: {name} is finished and was {done.path or 'an unknown file'}, now it is "
                f"{now[name].path or 'an unknown file'}. Give the photos as before, or {restart}"
            )
        if now[name].stem != done.stem:
            raise SettingsError(
                f"{journal}: the files of {name} are named {done.stem}, now they would be named "
                f"{now[name].stem}. Rename the photo that was added, or {restart}"
            )
