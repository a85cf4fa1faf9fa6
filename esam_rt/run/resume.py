"""The output folder of a run of photos: its journal, and the checks of a resumed run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from esam_rt.errors import SettingsError
from esam_rt.run.output_folder import ERRORS, PHOTOS, PROFILE, RUN, OutputFolder
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sinks.sink import outputs_of
from esam_rt.sinks.sink_table import SINKS
from esam_rt.storage.atomic import make_folder, remove


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
    """

    def __init__(self, path: Path, outputs: Sequence[str] = ()) -> None:
        known = outputs_of(SINKS.values())
        self.outputs = list(dict.fromkeys([*known, *outputs]))
        owned = [*self.outputs, PHOTOS, ERRORS, PROFILE, RUN]
        super().__init__(path, owned, RUN, "esam-rt", journal=PHOTOS)

    def make(self) -> None:
        """Make the folder if it is missing.

        Raises:
            OutputError: If it cannot be made.
        """
        make_folder(self.path)

    def records(self) -> Iterator[PhotoRecord]:
        """Read the journal.

        Two runs on different machines may have processed the same photo. The first line of each photo counts.

        Yields:
            The record of each finished photo.

        Raises:
            InputError: If a line is no record.
        """
        seen: set[str] = set()
        for record in map(PhotoRecord.from_json, self.lines()):
            if record.name not in seen:
                seen.add(record.name)
                yield record

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
        name = done.name
        restart = "start again with --overwrite or another --out."
        if name not in now:
            like = next((other for other in now if PurePosixPath(other).name == PurePosixPath(name).name), None)
            raise SettingsError(
                f"{self.journal}: {name} is finished but not among the photos, found {like or f'{len(now)} others'}. "
                f"Give the photos as before, or {restart}"
            )
        if now[name].path != done.path:
            raise SettingsError(
                f"{self.journal}: {name} is finished and was {done.path or 'an unknown file'}, now it is "
                f"{now[name].path or 'an unknown file'}. Give the photos as before, or {restart}"
            )
        if now[name].stem != done.stem:
            raise SettingsError(
                f"{self.journal}: the files of {name} are named {done.stem}, now they would be named "
                f"{now[name].stem}. Rename the photo that was added, or {restart}"
            )
