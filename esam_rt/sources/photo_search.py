"""Finds photos in files and folders, names them, and counts the files that are left out."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esam_rt.errors import InputError

_log = logging.getLogger("esam_rt")
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib"),
    *(".tif", ".tiff", ".webp", ".avif", ".heic", ".heif"),
)
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


@dataclass(frozen=True)
class PhotoFile:
    """A photo on disk.

    Attributes:
        path: Path of the file.
        name: Path relative to the folder that was searched, with forward slashes. It is unique in a run.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class FoundPhotos:
    """Result of a search.

    Attributes:
        photos: The photos, with unique names.
        left_out: Number of files that were left out, by suffix in lower case. The most frequent one is first.
    """

    photos: list[PhotoFile]
    left_out: Mapping[str, int]


def find_photos(sources: Sequence[Path]) -> list[PhotoFile]:
    """Find photos in files and folders, source after source, in natural order (2 before 10).

    A folder is searched with its sub-folders. Hidden files and folders are left out, and files with another suffix. A
    folder that several links reach is searched once, and a photo that several sources hold is returned once. A file is
    named by its file name. If two photos of different sources would have the same name, every name is prefixed with the
    name of its source folder. A number follows if folders have the same name: ``holiday/1.jpg``, ``holiday-2/1.jpg``.

    Args:
        sources: Photos and folders of photos. A file may have any suffix.

    Returns:
        The photos, with unique names.

    Raises:
        InputError: If a path is missing, or a folder has no photos.
    """
    return search_photos(sources).photos


def search_photos(sources: Sequence[Path], exclude: Sequence[Path] = ()) -> FoundPhotos:
    """Find photos, and count the files that are left out because of their suffixes. See `find_photos`.

    Args:
        sources: Photos and folders of photos.
        exclude: Files, and folders with all that is in them, that are not counted. Paths without links.

    Returns:
        The photos and the counts.

    Raises:
        InputError: If a path is missing, or a folder has no photos.
    """
    found: dict[Path, tuple[Path, str]] = {}  # absolute path of a photo -> folder its name is relative to, name
    left_out = Counter[str]()
    for source in sources:
        try:
            root, paths = _search(source, exclude, left_out)
        except OSError as e:
            raise InputError(f"{source} cannot be read: {e.strerror}. Check the path and its permissions.") from e
        for path in paths:
            found.setdefault(path.absolute(), (root.absolute(), path.relative_to(root).as_posix()))
    counted = dict(left_out.most_common())
    counts = Counter(name.casefold() for _, name in found.values())  # some file systems do not tell a.jpg from A.jpg
    roots = list(dict.fromkeys(root for root, _ in found.values()))
    if len(roots) == 1 or not counts or counts.most_common(1)[0][1] == 1:
        return FoundPhotos([PhotoFile(path, name) for path, (_, name) in found.items()], counted)
    prefixes = _prefixes(roots)
    photos = [PhotoFile(path, f"{prefixes[root]}/{name}") for path, (root, name) in found.items()]
    return FoundPhotos(photos, counted)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Say which files were left out.

    Args:
        left_out: Their number by suffix.

    Returns:
        For example ``left out 3 files that are no photos by their names: 2 .txt, 1 without a suffix``.
    """
    count = sum(left_out.values())
    files = "file that is no photo by its name" if count == 1 else "files that are no photos by their names"
    kinds = ", ".join(f"{number} {suffix or 'without a suffix'}" for suffix, number in left_out.items())
    return f"left out {count} {files}: {kinds}"


def local_path(text: str) -> Path:
    """Read the path of a photo or a folder.

    Args:
        text: What a user gave: a path, or ``file://`` and an absolute path, without escapes.

    Returns:
        The path.

    Raises:
        InputError: If it is a URL of something else than a file.
    """
    if text.startswith("file:///"):
        return Path(text.removeprefix("file://"))
    if _URL.match(text) and not os.path.exists(text):  # noqa: PTH110 - a folder may be called so
        raise InputError(f"{text} is a URL. Download it first, then give the path of the file.")
    return Path(text)


def is_inside(path: Path, folders: Sequence[Path]) -> bool:
    """Tell if a path lies in one of some folders, or is one of them.

    Args:
        path: The path, without links.
        folders: The folders, without links.
    """
    return any(path.is_relative_to(folder) for folder in folders)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key with numbers by value. Text and numbers alternate, so that only equal types are compared.

    Args:
        name: Name of a photo.
    """
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split(r"([0-9]+)", name))], name


def no_photos(source: Path | str, left_out: Mapping[str, int]) -> InputError:
    """Return the error of a folder without photos.

    Args:
        source: The folder.
        left_out: Number of other files in it, by suffix.
    """
    others = f" It {describe_left_out(left_out)}." if left_out else ""
    suffixes = f"{', '.join(PHOTO_SUFFIXES[:-1])} or {PHOTO_SUFFIXES[-1]}"
    return InputError(f"{source} holds no photos; expected files ending in {suffixes}.{others}")


def _search(source: Path, exclude: Sequence[Path], left_out: Counter[str]) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the photos in natural order. Count the other files."""
    if source.is_dir():
        paths = []
        outside = Counter[str]()
        for path in _walk(source):
            if path.suffix.lower() in PHOTO_SUFFIXES:
                paths.append(path)
            elif not is_inside(Path(os.path.realpath(path)), exclude):
                outside[path.suffix.lower()] += 1
        if not paths:
            raise no_photos(source, outside)
        left_out.update(outside)
        return source, sorted(paths, key=lambda path: natural_key(path.relative_to(source).as_posix()))
    if not source.exists():
        raise InputError(f"{source} does not exist. Give a photo or a folder of photos.")
    return source.parent, [source]


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files below ``root``. Links to folders come last: photos keep their real paths."""
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
                    (links if path.is_symlink() else folders).append(path)
                else:
                    yield path
        except OSError as e:
            if folder == root:
                raise InputError(f"{root} cannot be listed: {e.strerror}. Check its permissions.") from e
            _log.warning("%s is left out: %s.", folder, e.strerror)


def _prefixes(roots: list[Path]) -> dict[Path, str]:
    """Give each folder a distinct name: its own name, then with -2, -3 and so on."""
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
