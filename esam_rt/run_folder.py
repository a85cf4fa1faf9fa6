"""The folder of a run: what belongs to esam-rt there, and what may be done with an earlier run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from esam_rt.errors import OutputError, SettingsError
from esam_rt.storage.atomic import TEMPORARY, output_error

PHOTOS, ERRORS, PROFILE, RUN = "photos.jsonl", "errors.jsonl", "profile.json", "run.json"
FOLDERS = ("labels", "overlays", "report")
# What a run writes into its folder. run.json, which marks the folder as one of esam-rt, is made first and removed last.
OWNED = (*FOLDERS, PHOTOS, ERRORS, PROFILE, "entities.json", RUN)
FIXED = (
    "model",
    "backend",
    "device",
    "method",
    "settings",
    "write",
)  # what a resumed run must have in common with its beginning


def make_folder(out: Path) -> None:
    """Make `out` where it is missing; OutputError when it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise output_error(out, e) from e


@dataclass(frozen=True)
class Place:
    """stem: of a photo's files. path: its own, without links."""

    stem: str
    path: str


def earlier_run(out: Path) -> dict[str, Any] | None:
    """run.json of the run in `out`, None where there is none; SettingsError for files of others by the same names."""
    present = [name for name in OWNED if os.path.exists(out / name)]  # noqa: PTH110 - never raises
    if not present:
        return None
    try:
        earlier = json.loads((out / RUN).read_bytes())
    except (OSError, ValueError):
        earlier = None
    if not isinstance(earlier, dict) or earlier.get("program") != "esam-rt":
        raise SettingsError(
            f"--out {out}: holds {', '.join(present)} and no {RUN} of esam-rt, so they may be someone else's; "
            "choose another folder."
        )
    return earlier


def remove_run(out: Path) -> None:
    """Remove what esam-rt wrote into `out`, and nothing else."""
    for name in OWNED:
        remove(out / name)
    remove_halves(out)


def remove_halves(out: Path) -> None:
    """Remove what a run that was killed left half-written beside its folders: a profile is as large as the run is long.

    Nobody else is writing there, see `kept_from_others`.
    """
    for half in out.glob(f"{TEMPORARY}*"):
        remove(half)


def remove(path: Path) -> None:
    """Remove a file, link or folder; nothing where there is none. OutputError when it cannot be removed."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as e:
        raise OutputError(f"{path} cannot be removed: {e.strerror}; remove it or choose another folder") from e


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
