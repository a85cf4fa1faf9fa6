"""Photo files: find them in folders, and read them one by one."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from esam_rt.errors import InputError
from esam_rt.sources.decode import MAX_PIXELS, pixel_count, read_photo
from esam_rt.sources.frame import Frame

_log = logging.getLogger("esam_rt")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


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
class PhotoItem:
    """`SourceItem` of a photo file.

    Attributes:
        file: The photo.
        max_pixels: A photo with more pixels is refused.
    """

    file: PhotoFile
    max_pixels: int = MAX_PIXELS

    @property
    def name(self) -> str:
        """Name of the photo."""
        return self.file.name

    @property
    def path(self) -> str:
        """Path of the file without links."""
        return os.path.realpath(self.file.path)  # a link to itself does not raise here; reading it explains the fault

    def pixel_count(self) -> int:
        """Return the number of pixels from the file's header, or 0 if the header cannot be read."""
        return pixel_count(self.file.path)

    def read(self) -> Frame:
        """Decode the photo.

        Raises:
            InputError: If the file is missing, damaged, no photo, or too large.
        """
        return replace(read_photo(self.file.path, self.file.name, self.max_pixels), path=self.file.path)


class PhotoFolder:
    """The photos of files and folders, in natural order (2 before 10).

    Args:
        sources: Photos and folders of photos. Folders are searched with their sub-folders, see `find_photos`.
        max_pixels: Photos with more pixels are refused.
        exclude: Photos inside these folders are left out, for example results of an earlier run.
        photos: Photos that were found before. ``sources`` is then not searched.

    Raises:
        InputError: If a path is missing, is no photo, or if no photo is left.

    Example:
        >>> for frame in PhotoFolder("holiday"):  # doctest: +SKIP
        ...     print(frame.name, frame.image_hwc_rgb.shape)
    """

    is_live = False

    def __init__(
        self,
        sources: Path | str | Sequence[Path | str],
        max_pixels: int = MAX_PIXELS,
        exclude: Sequence[Path] = (),
        photos: Sequence[PhotoFile] | None = None,
    ) -> None:
        paths = [Path(p) for p in ([sources] if isinstance(sources, Path | str) else sources)]
        found = [PhotoItem(photo, max_pixels) for photo in (find_photos(paths) if photos is None else photos)]
        self._items = [item for item in found if not _is_inside(Path(item.path), exclude)]
        if not self._items:
            where = ", ".join(map(str, paths))
            raise InputError(f"No photos but the results of an earlier run in {where}. Give a folder with photos.")

    @property
    def length(self) -> int:
        """Number of photos."""
        return len(self._items)

    def __iter__(self) -> Iterator[Frame]:
        """Decode the photos in order.

        Raises:
            InputError: At the first photo that cannot be used. Use `items` to continue after it.
        """
        return (item.read() for item in self._items)

    def items(self) -> list[PhotoItem]:
        """Return all photos, not read yet, in order."""
        return list(self._items)


def find_photos(sources: Sequence[Path]) -> list[PhotoFile]:
    """Find photos in files and folders, source after source, in natural order (2 before 10).

    A folder is searched with its sub-folders. Hidden files and folders are left out. A folder that several links reach
    is searched once, and a photo that several sources hold is returned once. A file is named by its file name. If two
    photos of different sources would have the same name, every name is prefixed with the name of its source folder.
    A number follows if folders have the same name: ``holiday/1.jpg``, ``holiday-2/1.jpg``.

    Args:
        sources: Photos and folders of photos.

    Returns:
        The photos, with unique names.

    Raises:
        InputError: If a path is missing, a folder has no photos, or a file has another suffix.
    """
    found: dict[Path, tuple[Path, str]] = {}  # absolute path of a photo -> folder its name is relative to, name
    for source in sources:
        try:
            root, paths = _search(source)
        except OSError as e:
            raise InputError(f"{source} cannot be read: {e.strerror}. Check the path and its permissions.") from e
        for path in paths:
            found.setdefault(path.absolute(), (root.absolute(), path.relative_to(root).as_posix()))
    counts = Counter(name.casefold() for _, name in found.values())  # some file systems do not tell a.jpg from A.jpg
    roots = list(dict.fromkeys(root for root, _ in found.values()))
    if len(roots) == 1 or not counts or counts.most_common(1)[0][1] == 1:
        return [PhotoFile(path, name) for path, (_, name) in found.items()]
    prefixes = _prefixes(roots)
    return [PhotoFile(path, f"{prefixes[root]}/{name}") for path, (root, name) in found.items()]


def _is_inside(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _suffixes() -> str:
    return f"{', '.join(PHOTO_SUFFIXES[:-1])} or {PHOTO_SUFFIXES[-1]}"


def _search(source: Path) -> tuple[Path, list[Path]]:
    """Return the folder that names are relative to, and the photos in natural order."""
    if source.is_dir():
        paths = sorted(_walk(source), key=lambda path: _natural(path.relative_to(source).as_posix()))
        if not paths:
            raise InputError(f"{source} holds no photos; expected files ending in {_suffixes()}.")
        return source, paths
    if not source.exists():
        raise InputError(f"{source} does not exist. Give a photo or a folder of photos.")
    if source.suffix.lower() not in PHOTO_SUFFIXES:
        raise InputError(f"{source} is not a photo by its name; expected a folder or a file ending in {_suffixes()}.")
    return source.parent, [source]


def _walk(root: Path) -> Iterator[Path]:
    """Yield files with a photo's suffix below ``root``. Links to folders come last: photos keep their real paths."""
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
                elif path.suffix.lower() in PHOTO_SUFFIXES:
                    yield path
        except OSError as e:
            if folder == root:
                raise InputError(f"{root} cannot be listed: {e.strerror}. Check its permissions.") from e
            _log.warning("%s is left out: %s.", folder, e.strerror)


def _natural(name: str) -> tuple[list[str | int], str]:
    """Sort key with numbers by value. Text and numbers alternate, so that only equal types are compared."""
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(re.split(r"([0-9]+)", name))], name


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
