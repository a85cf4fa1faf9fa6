"""Names of output files."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

SUFFIXES = (".png", ".jpg", ".js")  # of all files that are made of a photo: labels, overlays, report
MOST_BYTES = 255  # of a file name, on all common file systems


def output_stems(names: Sequence[str]) -> dict[str, str]:
    """Where the files of each photo go: the photo's name without its suffix, `sub/a.jpg` -> `sub/a`.

    The suffix stays where two files could meet: another photo of `names` has the same name without suffix (`a.jpg` and
    `a.png`), or is itself called like that (`a.jpg.png` beside `a.jpg`), or lies in a folder that is called like one of
    the files (`a.png/b.jpg` beside `a.jpg`). Where that is not enough, a number follows; what is too long for a file
    name is cut, and a hash follows. Upper and lower case count as the same, as on some file systems. Give all photos of
    a run, so that a resumed run finds the same stems.
    """
    bare = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    count = Counter(stem.casefold() for stem in bare.values())
    whole = {name.casefold() for name in names}
    folders = {str(folder).casefold() for name in names for folder in PurePosixPath(name).parents}

    def is_in_the_way(stem: str) -> bool:
        return any(stem.casefold() + suffix in folders for suffix in SUFFIXES)

    def is_taken(stem: str) -> bool:
        return count[stem.casefold()] > 1 or stem.casefold() in whole or is_in_the_way(stem)

    stems = {name: _fitting(name if is_taken(stem) else stem) for name, stem in bare.items()}
    used, seen = {stem.casefold() for stem in stems.values()}, set[str]()
    for name, stem in stems.items():
        if is_in_the_way(stem) or stem.casefold() in seen:
            longer = (_fitting(f"{name}-{number}") for number in itertools.count(2))
            stem = next(s for s in longer if not is_in_the_way(s) and s.casefold() not in used)
            stems[name] = stem
            used.add(stem.casefold())
        seen.add(stem.casefold())
    return stems


def _fitting(stem: str) -> str:
    """The stem; where a file system has no room for it and a suffix, its beginning and a hash."""
    folder, slash, last = stem.rpartition("/")
    most = MOST_BYTES - max(map(len, SUFFIXES))
    if len(os.fsencode(last)) <= most:
        return stem
    mark = f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:12]}"
    while len(os.fsencode(last + mark)) > most:
        last = last[:-1]
    return f"{folder}{slash}{last}{mark}"
