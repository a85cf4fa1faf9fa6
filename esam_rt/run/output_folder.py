"""The output folder of a run or an evaluation: lock, ownership, record, journal, and the checks before a resume."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from esam_rt.errors import InputError, SettingsError
from esam_rt.sources.photo_search import local_path
from esam_rt.storage.atomic import TEMPORARY, remove, write_json
from esam_rt.storage.buckets import is_bucket
from esam_rt.storage.json_files import bounded_json
from esam_rt.storage.jsonl import append_line, drop_torn_line, read_lines
from esam_rt.storage.locks import kept_from_others
from esam_rt.storage.nested import flatten

PHOTOS, ERRORS, PROFILE, RUN = "photos.jsonl", "errors.jsonl", "profile.json", "run.json"
# A resumed run must have these entries of run.json in common with its beginning.
FIXED = ("model", "backend", "device", "method", "settings", "write", "range", "bands", "deadline_s")


def out_address(out: Path | str) -> Path | str:
    """Read the place for results.

    Args:
        out: A path, ``file://`` and an absolute path, or the URL of a folder in a bucket.

    Returns:
        A path, or the URL.

    Raises:
        SettingsError: If it is empty, usually an unset shell variable, or another URL.
    """
    if isinstance(out, Path) or is_bucket(out):
        return out
    if not out:
        raise SettingsError("--out is empty, expected a path. Is a shell variable not set?")
    try:
        return local_path(out)
    except InputError as e:
        raise SettingsError(f"--out {out}: expected a folder, or one in a bucket such as s3://BUCKET/FOLDER.") from e


class OutputFolder:
    """A folder that one program writes to, whole or not at all, with files of others beside its own.

    A record file marks the folder as the program's own. It is written first and removed last.

    Args:
        path: The folder. It may be missing.
        owned: Names of all files and folders that the program writes there. Nothing else is ever removed.
        record: Name of the record file, one of ``owned``. It is a JSON object with ``program``.
        program: Value of ``program`` in the record file.
        kind: One word for the content, used in messages: ``run``, ``table``, ``evaluation``.
        flags: Advice if the folder already holds such content, used in messages.
        journal: Name of the journal, one of ``owned``. Empty if there is no journal.
    """

    def __init__(
        self,
        path: Path,
        owned: Sequence[str],
        record: str,
        program: str,
        kind: str = "run",
        flags: str = "--resume to continue it, --overwrite to remove it",
        journal: str = "",
    ) -> None:
        self.path = path
        self.owned = [*(name for name in owned if name != record), record]
        self.record, self.journal = path / record, path / journal
        self.program, self.kind, self.flags = program, kind, flags

    def shown(self, path: Path) -> Path | str:
        """Return the name of a file for users.

        Args:
            path: Its path in this folder, or the path of the folder.
        """
        return path

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs out of the folder.

        Returns:
            A context manager. It raises SettingsError if another run writes there.
        """
        return kept_from_others(self.path)

    def earlier(self) -> dict[str, Any] | None:
        """Read the record of earlier content.

        Returns:
            The record, or None if the folder holds nothing with an owned name.

        Raises:
            SettingsError: If there are files with owned names, but no record of this program.
        """
        present = self.present()
        if not present:
            return None
        record = self.read_record()
        if not isinstance(record, dict) or record.get("program") != self.program:
            raise SettingsError(
                f"--out {self.shown(self.path)}: holds {', '.join(present)} and no {self.record.name} of esam-rt, so "
                "they may be someone else's. Choose another folder."
            )
        return record

    def present(self) -> list[str]:
        """Return the owned names that are in the folder."""
        return [name for name in self.owned if os.path.exists(self.path / name)]  # noqa: PTH110 - never raises

    def read_record(self) -> Any:
        """Return the value of the record file, or None if it is missing or no JSON."""
        try:
            return bounded_json(self.record)
        except (OSError, ValueError):
            return None

    def choose(self, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Decide about earlier content. Nothing is changed yet.

        Args:
            resume: The user wants to continue it.
            overwrite: The user wants to remove it.

        Returns:
            The record of the earlier content, or None if there is none.

        Raises:
            SettingsError: If the user has to decide, decided twice, or the files belong to someone else.
        """
        if resume and overwrite:
            raise SettingsError("--resume continues an earlier run and --overwrite removes it; give one of them.")
        record = self.earlier()
        if record is not None and not (resume or overwrite):
            raise SettingsError(
                f"--out {self.shown(self.path)}: holds an earlier {self.kind}; give {self.flags}, or another folder."
            )
        return record

    def check_same(self, earlier: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str] = FIXED) -> None:
        """Check that a resumed run has the options that it began with.

        Args:
            earlier: Record of the earlier content.
            now: Record of the resumed run.
            keys: Entries that must be equal.

        Raises:
            SettingsError: At the first difference.
        """
        before, after = (flatten({key: run.get(key) for key in keys}) for run in (earlier, now))
        for key in before | after:
            if before.get(key) != after.get(key):
                raise SettingsError(
                    f"{self.shown(self.record)}: {key} was {_short(before.get(key))}, now it is "
                    f"{_short(after.get(key))}. Resume with the options that the run began with, or start again with "
                    "--overwrite."
                )

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record file. The folder is made if it is missing.

        Args:
            record: The record, with ``program``.

        Raises:
            OutputError: If it cannot be written.
        """
        write_json(self.record, record)

    def append(self, line: str) -> None:
        """Append a line to the journal and wait until it is on the disk.

        Args:
            line: ASCII text without a line feed.

        Raises:
            OutputError: If it cannot be written.
        """
        append_line(self.journal, line)

    def lines(self) -> Iterator[str]:
        """Read the whole lines of the journal."""
        return read_lines(self.journal)

    def clear(self) -> None:
        """Remove everything that the program wrote, and nothing else.

        Raises:
            OutputError: If something cannot be removed.
        """
        for name in self.owned:
            remove(self.path / name)
        self.remove_temporary()

    def mend(self) -> None:
        """Remove what a killed run left half-written: temporary files, and a torn last line of the journal.

        Raises:
            OutputError: If something cannot be removed.
        """
        drop_torn_line(self.journal)
        self.remove_temporary()

    def remove_temporary(self) -> None:
        """Remove the temporary files of a killed run, in the folder and in all folders that the program writes.

        Raises:
            OutputError: If one cannot be removed.
        """
        left = [*self.path.glob(f"{TEMPORARY}*")]  # a trace file can be as large as the run is long
        for folder in (self.path / name for name in self.owned):
            if folder.is_dir() and not folder.is_symlink():
                left += folder.rglob(f"{TEMPORARY}*")
        for path in left:
            remove(path)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
