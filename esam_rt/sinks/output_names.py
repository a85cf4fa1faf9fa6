"""Names of output files."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from esam_rt.errors import InputError

SUFFIXES = (".png", ".jpg", ".js", ".json", ".txt", ".pkl.gz")  # of all files of one photo, in the folders of all sinks
MOST_BYTES = 255  # of a file name, on all common file systems


def output_stems(names: Sequence[str]) -> dict[str, str]:
    """Choose the path of each photo's files: the photo's name without its suffix, ``sub/a.jpg`` -> ``sub/a``.

    The suffix stays if two files could meet:

    - another photo has the same name without suffix (``a.jpg`` and ``a.png``);
    - another photo is called like a file of this one (``a.jpg.png`` beside ``a.jpg``);
    - a folder is called like a file of this one (``a.png/b.jpg`` beside ``a.jpg``).

    If that is not enough, a number follows. A name that is too long for a file is cut, and a hash follows. Upper and
    lower case count as the same, as on some file systems.

    Args:
        names: Names of all photos of a run. A resumed run then finds the same stems.

    Returns:
        The stem of each name: relative, without suffix.
    """
    bare = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    count = Counter(stem.casefold() for stem in bare.values())
    whole = {name.casefold() for name in names}
    folders = {folder.casefold() for name in names for folder in _folders(name)}

    def meets_folder(stem: str) -> bool:
        return any(stem.casefold() + suffix in folders for suffix in SUFFIXES)

    def is_taken(stem: str) -> bool:
        return count[stem.casefold()] > 1 or stem.casefold() in whole or meets_folder(stem)

    stems = {name: _fitting(name if is_taken(stem) else stem) for name, stem in bare.items()}
    used, seen = {stem.casefold() for stem in stems.values()}, set[str]()
    for name, stem in stems.items():
        if meets_folder(stem) or stem.casefold() in seen:
            stem = next(s for s in _numbered(name) if not meets_folder(s) and s.casefold() not in used)
            stems[name] = stem
            used.add(stem.casefold())
        seen.add(stem.casefold())
    return stems


class StemMaker:
    """Chooses stems like `output_stems`, for names that are not known in advance.

    Example:
        >>> stem = StemMaker()
        >>> stem("a.jpg"), stem("a.png"), stem("a.jpg")
        ('a', 'a.png', 'a')
    """

    def __init__(self) -> None:
        self._stems: dict[str, str] = {}
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def __call__(self, name: str) -> str:
        """Return the stem of a name, the same one every time.

        Args:
            name: Name of a frame.

        Returns:
            A stem whose files meet no file and no folder of another name.

        Raises:
            InputError: If the name is no relative path, see `check_name`.
        """
        if name not in self._stems:
            check_name(name)
            bare = _fitting(str(PurePosixPath(name).with_suffix("")))
            flat = name.replace("/", "-")  # if one of the name's folders is called like a file that exists
            candidates = itertools.chain([bare, _fitting(name)], _numbered(flat))
            stem = next(candidate for candidate in candidates if self._is_free(candidate))
            self._stems[name] = stem
            self._files |= self._files_of(stem)
            self._folders |= {folder.casefold() for folder in _folders(stem)}
        return self._stems[name]

    def _is_free(self, stem: str) -> bool:
        files, folders = self._files_of(stem), {folder.casefold() for folder in _folders(stem)}
        return files.isdisjoint(self._files | self._folders) and folders.isdisjoint(self._files)

    @staticmethod
    def _files_of(stem: str) -> set[str]:
        return {stem.casefold() + suffix for suffix in SUFFIXES}


def check_name(name: str) -> None:
    """Check that a frame's name is a relative path: files named after it stay in the output folder.

    Args:
        name: Name of the frame.

    Raises:
        InputError: If the name is empty, absolute, or leads out of its folder.
    """
    other_separators = os.name == "nt" and any(mark in name for mark in "\\:")
    if "\0" in name or other_separators or any(part in ("", ".", "..") for part in name.split("/")):
        raise InputError(f"{name!r} is not a frame's name; expected a relative path such as sub/a.jpg. Rename it.")


def _folders(name: str) -> Iterator[str]:
    """Yield the folders above a name."""
    return (str(folder) for folder in PurePosixPath(name).parents)


def _numbered(name: str) -> Iterator[str]:
    """Yield the name with -2, -3 and so on."""
    return (_fitting(f"{name}-{number}") for number in itertools.count(2))


def _fitting(stem: str) -> str:
    """Return the stem, or its beginning and a hash if it and a suffix are too long for a file name."""
    folder, slash, last = stem.rpartition("/")
    most = MOST_BYTES - max(map(len, SUFFIXES))
    if len(os.fsencode(last)) <= most:
        return stem
    mark = f"-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:12]}"
    while len(os.fsencode(last + mark)) > most:
        last = last[:-1]
    return f"{folder}{slash}{last}{mark}"
