"""BucketRunFolder: the output folder of a run, in a bucket.

Sinks write into a staging folder of this machine. The files of a photo are copied into the bucket and removed here.
Then its line is added to the journal. A bucket cannot append: the journal of a run that goes on lies there in parts.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esam_rt.errors import InputError, OutputError
from esam_rt.run.output_folder import ERRORS, PHOTOS, RUN, out_address
from esam_rt.run.resume import Place, RunFolder
from esam_rt.sinks.photo_record import name_of_line
from esam_rt.sinks.sink import outputs_of
from esam_rt.sinks.sink_table import SINKS
from esam_rt.storage.atomic import TEMPORARY, output_error, remove
from esam_rt.storage.bucket_folder import BucketFolder
from esam_rt.storage.json_files import RECORD_BYTES
from esam_rt.storage.jsonl import read_lines
from esam_rt.storage.locks import kept_from_others

PARTS = f"{PHOTOS}.parts"  # folder of the journal's parts
WRITER = f"{TEMPORARY}writer"  # holds the token of the run that writes
# A part is written when a photo ends and one of both is reached: a process that is killed loses so much at most.
PART_S, PART_BYTES = 10.0, 8 << 20
_PART = re.compile(r"\d{8}-[0-9a-f]{16}\.jsonl")
_MORE_BYTES = 64  # of a name: the folder of a sink, and a suffix


def run_folder(out: Path | str, outputs: Sequence[str] = ()) -> RunFolder:
    """Return the output folder of a run, of this machine or in a bucket.

    Args:
        out: Its path or URL.
        outputs: Names of files and folders of sinks that are not in the table of sinks.

    Raises:
        SettingsError: If it is another URL. InputError likewise.
        MissingDependencyError: If a package for the bucket is not installed.
    """
    address = out_address(out)
    return BucketRunFolder(address, outputs) if isinstance(address, str) else RunFolder(address, outputs)


class BucketRunFolder(RunFolder):
    """The output folder of a run, in a bucket. ``path`` is its staging folder, which lives as long as `staging`.

    Args:
        url: The folder in the bucket. It may be missing.
        outputs: Names of files and folders of sinks that are not in the table of sinks.

    Raises:
        OutputError: If there is no folder for temporary files.
    """

    is_staging = True

    def __init__(self, url: str, outputs: Sequence[str] = ()) -> None:
        self._bucket = BucketFolder(url)
        self._token = secrets.token_hex(8)
        try:
            temporary = tempfile.gettempdir()
        except OSError as e:
            raise OutputError(f"--out {url}: found no folder for temporary files. Set TMPDIR to one.") from e
        super().__init__(Path(temporary) / f"esam-rt-{self._token}", outputs)
        self._is_kept = False
        self.owned.insert(0, PARTS)
        self._part = 0
        self._sent_bytes = 0  # of the journal
        self._sent_s = time.monotonic()

    def shown(self, path: Path) -> Path | str:
        """Return the URL of a file.

        Args:
            path: Its path in the staging folder, or the path of that folder.
        """
        if not path.is_relative_to(self.path):
            return path
        name = path.relative_to(self.path).as_posix()
        return self._bucket.url if name == "." else f"{self._bucket.url}/{name}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs of this machine out of the folder. A run of another machine stops when this one begins.

        Raises:
            SettingsError: If another run of this machine writes there.
            OutputError: If there is no room for the staging folder.
        """
        with kept_from_others(self._bucket.url), self.staging():
            yield

    @contextmanager
    def staging(self) -> Iterator[None]:
        """Keep the staging folder. It stays if its last files could not be copied.

        Raises:
            OutputError: If it cannot be made or removed.
        """
        try:
            self.path.mkdir(mode=0o700)
        except OSError as e:
            raise output_error(self.path, e) from e
        try:
            yield
        finally:
            if not self._is_kept:
                remove(self.path)

    def make(self) -> None:
        """Try to write and to remove: a run would find out late.

        Raises:
            OutputError: If it fails.
        """
        probe = f"{TEMPORARY}{self._token}"
        self._bucket.write(probe, b"esam-rt")
        self._bucket.remove([probe])

    def present(self) -> list[str]:
        """Return the owned names that are in the folder."""
        found = set(self._bucket.names())
        return [name for name in self.owned if name in found]

    def read_record(self) -> Any:
        """Return the value of the record, or None if it is missing or no JSON."""
        try:
            return json.loads(self._bucket.read(RUN, RECORD_BYTES) or b"null")
        except (ValueError, RecursionError):
            return None

    def begin(self, earlier: Mapping[str, Any] | None, record: dict[str, Any], now: Mapping[str, Place] | None) -> None:
        """Continue or remove an earlier run, and write the record of this one. See `RunFolder.begin`."""
        is_resumed = earlier is not None and now is not None
        if is_resumed:
            self._fetch_journal()
        super().begin(earlier, record, now)
        if is_resumed:
            self._bucket.remove([ERRORS])
            if self.journal.exists():  # the next resume need not read all parts again
                self._bucket.put(self.path, [PHOTOS])
                self._bucket.remove([PARTS])

    def clear(self) -> None:
        """Remove everything that a run wrote, and nothing else.

        Raises:
            OutputError: If something cannot be removed.
        """
        self._bucket.write(WRITER, self._token.encode())
        self._bucket.remove(self.present())

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record, and take the folder from a run that writes there.

        Args:
            record: The record, with ``program``.

        Raises:
            OutputError: If it cannot be written.
        """
        super().write_record(record)
        self._bucket.write(WRITER, self._token.encode())
        self._bucket.put(self.path, [RUN])

    def check_stem(self, stem: str) -> None:
        """Check that objects can have the names of a frame's files.

        Args:
            stem: Path of the files, without suffix.

        Raises:
            InputError: If it is not UTF-8, or too long.
        """
        if not self._bucket.fits(stem, _MORE_BYTES):
            raise InputError(f"{stem!r} is no name for objects in a bucket: not UTF-8, or too long. Rename the photo.")

    def publish(self) -> None:
        """Copy the files of a finished frame into the bucket, and remove them here.

        Files of sinks that are not in the table of sinks wait for the end: they may still grow.

        Raises:
            OutputError: If one cannot be written.
        """
        folders = [self.path / name for name in outputs_of(SINKS.values()) if (self.path / name).is_dir()]
        names = [self._name(path) for folder in folders for path in folder.rglob("*") if path.is_file()]
        self._bucket.put(self.path, names)
        for folder in folders:
            remove(folder)

    def append(self, line: str) -> None:
        """Publish the files of a frame, then append its line to the journal.

        Args:
            line: ASCII text without a line feed.

        Raises:
            OutputError: If it cannot be written, or another run took the folder.
        """
        self._check_writer()
        self.publish()
        super().append(line)
        left_bytes = self.journal.stat().st_size - self._sent_bytes
        if left_bytes >= PART_BYTES or time.monotonic() - self._sent_s >= PART_S:
            self._write_part()

    def finish(self, record: Mapping[str, Any]) -> None:
        """Copy all files that are left into the bucket, the record last. Remove the parts of the journal.

        Args:
            record: The record, with ``program``.

        Raises:
            OutputError: If one cannot be written, or another run took the folder. The files then stay on this machine.
        """
        super().write_record(record)
        paths = [path for path in self.path.rglob("*") if path.is_file() and path != self.record]
        names = [self._name(path) for path in paths if not path.name.startswith(TEMPORARY)]
        try:
            self._check_writer()
            self._bucket.put(self.path, names)
            self._check_writer()  # the files may have taken long
            self._bucket.put(self.path, [RUN])
            self._bucket.remove([PARTS, WRITER])
        except OutputError as e:
            self._is_kept = True
            raise OutputError(f"{e} The last files of this run are in {self.path}: {', '.join(sorted(names))}.") from e

    def _fetch_journal(self) -> None:
        """Put the journal together. A photo has two lines if a run was killed while it ended, or if two runs wrote."""
        whole = [PHOTOS] if PHOTOS in self._bucket.names() else []
        parts = [name for name in self._bucket.names(PARTS) if _PART.fullmatch(name)]
        if not whole and not parts:
            return
        piece, seen = self.path / f"{TEMPORARY}part", set[str]()
        try:
            with self.journal.open("wb") as file:
                for name in [*whole, *(f"{PARTS}/{part}" for part in parts)]:
                    self._bucket.fetch(name, piece)
                    for line in read_lines(piece):
                        photo = name_of_line(line)
                        if photo not in seen:
                            seen.add(photo)
                            file.write(line.encode("ascii", "replace") + b"\n")
                self._sent_bytes = file.tell()
        except OutputError:
            raise
        except OSError as e:
            raise output_error(self.journal, e) from e
        if parts:
            self._part = int(parts[-1][:8]) + 1

    def _write_part(self) -> None:
        with self.journal.open("rb") as file:
            file.seek(self._sent_bytes)
            data = file.read()
        self._bucket.write(f"{PARTS}/{self._part:08}-{self._token}.jsonl", data)
        self._part += 1
        self._sent_bytes += len(data)
        self._sent_s = time.monotonic()

    def _check_writer(self) -> None:
        """OutputError if another run took the folder: a bucket has no locks."""
        if self._bucket.read(WRITER, 2 * len(self._token)) != self._token.encode():
            raise OutputError(
                f"{self._bucket.url}: another run writes there since, or removed its files. This run ends. Let one run "
                "at a time write into a folder."
            )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()
