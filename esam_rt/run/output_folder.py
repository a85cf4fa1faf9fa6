"""The output folder of a run: ownership, and removal of an earlier run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from esam_rt.errors import OutputError, SettingsError
from esam_rt.storage.atomic import TEMPORARY, output_error

PHOTOS, ERRORS, PROFILE, RUN = "photos.jsonl", "errors.jsonl", "profile.json", "run.json"
FOLDERS = ("labels", "overlays", "report")
# What a run writes into its folder. run.json, which marks the folder as one of esam-rt, is made first and removed last.
OWNED = (*FOLDERS, PHOTOS, ERRORS, PROFILE, "entities.json", RUN)


def make_folder(out: Path) -> None:
    """Make `out` where it is missing; OutputError when it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise output_error(out, e) from e


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
