"""Checks that a run may be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from esam_rt.errors import SettingsError

FIXED = (
    "model",
    "backend",
    "device",
    "method",
    "settings",
    "write",
)  # what a resumed run must have in common with its beginning


@dataclass(frozen=True)
class Place:
    """stem: of a photo's files. path: its own, without links."""

    stem: str
    path: str


def check_same(path: Path, earlier: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[str] = FIXED) -> None:
    """SettingsError that names the first difference in `keys` between the record in `path` and its resumption."""
    before, after = (dict(_flat({key: run.get(key) for key in keys})) for run in (earlier, now))
    for key in before | after:
        if before.get(key) != after.get(key):
            raise SettingsError(
                f"{path}: {key} was {_short(before.get(key))}, now it is {_short(after.get(key))}; "
                "resume with what the run began with, or start anew with --overwrite."
            )


def check_photos(journal: Path, done: Mapping[str, Place], now: Mapping[str, Place]) -> None:
    """SettingsError unless every photo of the journal is found again, the same file under the same name, and its files
    under the same stem. One that is gone could as well be one that is called otherwise now: it would be done twice, and
    its first entities stay for ever.

    done, now: by name, of the photos in the journal and of all that are found.
    """
    for name, was in done.items():
        if name not in now:
            like = next((other for other in now if PurePosixPath(other).name == PurePosixPath(name).name), None)
            raise SettingsError(
                f"{journal}: {name} is done; expected it among the photos, found {like or f'{len(now)} others'}. Give "
                "the photos by the names that they had, or start anew with --overwrite or another --out."
            )
        if now[name].path != was.path:
            raise SettingsError(
                f"{journal}: {name} is done, of {was.path or 'an unknown file'}; found {now[name].path} by that name. "
                "Give the photos as before, or start anew with --overwrite or another --out."
            )
        if now[name].stem != was.stem:
            raise SettingsError(
                f"{journal}: the files of {name} are called {was.stem}, beside the photos found now {now[name].stem}. "
                "Rename the photo that was added, or start anew with --overwrite or another --out."
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts with dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
