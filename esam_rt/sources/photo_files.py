"""Finds photos in folders."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from esam_rt.errors import InputError

_log = logging.getLogger("esam_rt")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class PhotoFile:
    """A photo on disk. name: path relative to the folder it was found in, with forward slashes; unique in a run."""

    path: Path
    name: str


def find_photos(sources: Sequence[Path], recursive: bool = True) -> list[PhotoFile]:
    """The photos in `sources` (files and folders), each once, source after source, in natural order (2 before 10).

    A folder is searched with its sub-folders unless `recursive` is false; hidden files and folders are left out, and a
    folder reached twice through links is searched once. A file given directly is named by its file name. Where two
    photos of different sources would have the same name, every name is prefixed with its source folder's name, numbered
    where folders have the same one (`holiday/1.jpg`, `holiday-2/1.jpg`).

    Raises `InputError` for a missing path, a folder without photos or a file of another kind.
    """
    found: dict[Path, tuple[Path, str]] = {}  # absolute path of a photo -> folder its name is relative to, name
    for source in sources:
        try:
            root, paths = _search(source, recursive)
        except OSError as e:
            raise InputError(f"{source} cannot be read: {e.strerror}; check the path and its permissions") from e
        for path in paths:
            found.setdefault(path.absolute(), (root.absolute(), path.relative_to(root).as_posix()))
    counts = Counter(name.casefold() for _, name in found.values())  # some file systems do not tell a.jpg from A.jpg
    roots = list(dict.fromkeys(root for root, _ in found.values()))
    if len(roots) == 1 or not counts or counts.most_common(1)[0][1] == 1:
        return [PhotoFile(path, name) for path, (_, name) in found.items()]
    prefixes = _prefixes(roots)
    return [PhotoFile(path, f"{prefixes[root]}/{name}") for path, (root, name) in found.items()]


def _suffixes() -> str:
    return f"{', '.join(PHOTO_SUFFIXES[:-1])} or {PHOTO_SUFFIXES[-1]}"


def _search(source: Path, recursive: bool) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the photos in natural order."""
    if source.is_dir():
        paths = sorted(_walk(source, recursive), key=lambda path: _natural(path.relative_to(source).as_posix()))
        if not paths:
            raise InputError(f"{source} holds no photos; expected files ending in {_suffixes()}")
        return source, paths
    if not source.exists():
        raise InputError(f"{source} does not exist; give a photo or a folder of photos")
    if source.suffix.lower() not in PHOTO_SUFFIXES:
        raise InputError(f"{source} is not a photo by its name; expected a folder or a file ending in {_suffixes()}")
    return source.parent, [source]


def _walk(root: Path, recursive: bool) -> Iterator[Path]:
    """Files with a photo's suffix below `root`. Links to folders come last, so that photos keep their real paths."""
    folders, links, seen = [root], list[Path](), set[tuple[int, int]]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for path in folder.iterdir():
                if path.name.startswith("."):
                    continue
                if os.path.isdir(path):  # noqa: PTH112 - never raises: one odd link must not cost a folder
                    if recursive:
                        (links if path.is_symlink() else folders).append(path)
                elif path.suffix.lower() in PHOTO_SUFFIXES:
                    yield path
        except OSError as e:
            if folder == root:
                raise InputError(f"{root} cannot be listed: {e.strerror}; check its permissions") from e
            _log.warning("%s is left out: %s", folder, e.strerror)


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key with numbers by value; text and numbers alternate, so that like is compared with like."""
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split(r"([0-9]+)", name))], name


def _prefixes(roots: list[Path]) -> dict[Path, str]:
    """A distinct name for each folder: its own, then with -2, -3, …"""
    prefixes: dict[Path, str] = {}
    taken: set[str] = set()
    for root in roots:
        base = root.resolve().name or "root"
        prefix, number = base, 2
        while prefix.casefold() in taken:
            prefix, number = f"{base}-{number}", number + 1
        taken.add(prefix.casefold())
        prefixes[root] = prefix
    return prefixes
