"""Photos in a bucket as a source: found as in a folder, and copied to a temporary file one by one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from esam_rt.errors import InputError, OutputError
from esam_rt.sources.decode import pixel_count, read_photo
from esam_rt.sources.frame import Frame
from esam_rt.sources.photo_limits import MAX_PIXELS
from esam_rt.sources.photo_search import PHOTO_SUFFIXES, describe_left_out, natural_key, no_photos
from esam_rt.sources.sample_range import SampleRange, check_range
from esam_rt.sources.source import ItemSource
from esam_rt.storage.buckets import access_to, open_bucket

_log = logging.getLogger("esam_rt")
_BLOCK_BYTES = 8 << 20  # of one request: most photos need one
# No more of an object is copied than a photo of so many pixels can need, with its metadata.
_METADATA_BYTES, _BYTES_OF_A_PIXEL = 256_000_000, 8


@dataclass(frozen=True)
class _Reading:
    """Folder in a bucket, and options of its photos."""

    url: str
    max_pixels: int
    sample_range: SampleRange


class BucketPhoto:
    """`SourceItem` of a photo in a bucket. It is copied once, and the copy is gone when it is read.

    Args:
        reading: Folder in the bucket, and options.
        name: Name below the folder.
    """

    __slots__ = ("_copy", "_reading", "name")  # a bucket can hold millions

    def __init__(self, reading: _Reading, name: str) -> None:
        self._reading, self.name = reading, name
        self._copy: BinaryIO | None = None

    def __reduce__(self) -> tuple[type[BucketPhoto], tuple[_Reading, str]]:
        return BucketPhoto, (self._reading, self.name)  # another process makes a copy of its own

    def __del__(self) -> None:
        if getattr(self, "_copy", None) is not None:
            self._take().close()

    @property
    def path(self) -> str:
        """URL of the photo."""
        return f"{self._reading.url}/{self.name}"

    def pixel_count(self) -> int:
        """Copy the photo and return the number of pixels from its header, or 0 if it cannot be read."""
        try:
            self._copy = self._take()
        except InputError:  # `read` says why
            return 0
        return pixel_count(self.path, self._copy)

    def read(self) -> Frame:
        """Copy the photo if `pixel_count` did not, and decode it.

        Raises:
            InputError: If it is missing, refused, damaged, no photo, or too large.
            OutputError: If there is no room for the copy.
        """
        with self._take() as copy:
            return read_photo(self.path, self.name, self._reading.max_pixels, self._reading.sample_range, copy)

    def _take(self) -> BinaryIO:
        """Return the copy. It then belongs to the caller."""
        copy, self._copy = self._copy, None
        return copy or _copied(self.path, self._reading)


class PhotoBucket(ItemSource[BucketPhoto]):
    """The photos of one bucket, or of a folder in it, in natural order (2 before 10).

    They are found and named as those of a `PhotoFolder`. An object whose name is no relative path is left out, such as
    ``a//b.jpg``. The names of all photos are held in memory, and the listing of one folder while it is read.

    Args:
        url: Bucket, folder in it, or photo, such as ``s3://bucket/photos``. The extra ``buckets`` is needed, and the
            package for the bucket: s3fs, gcsfs or adlfs.
        max_pixels: Photos with more pixels are refused.
        sample_range: Value of black and of white, see `read_photo`.

    Attributes:
        left_out: Number of objects that were left out, by suffix in lower case.
        sample_range: Value of black and of white.

    Raises:
        InputError: If the bucket is missing, refused or not reached, or holds no photos.
        SettingsError: If ``sample_range`` is unknown.
        MissingDependencyError: If a package is not installed.

    Example:
        >>> for frame in PhotoBucket("s3://holiday/2026"):  # doctest: +SKIP
        ...     print(frame.name, frame.image_hwc_rgb.shape)
    """

    def __init__(self, url: str, max_pixels: int = MAX_PIXELS, sample_range: SampleRange = "full") -> None:
        self.sample_range = check_range(sample_range)
        self.left_out: Mapping[str, int] = {}
        system, root = open_bucket(url)
        folder, left_out = url.rstrip("/"), Counter[str]()
        with access_to(url):
            entries = system.ls(root, detail=True)
        if [(entry["name"], entry["type"]) for entry in entries] == [(root, "file")]:
            folder, _, name = folder.rpartition("/")
            names = [name]
        else:
            names = list(_search(system, url, root, entries, left_out))
            if not names:
                raise no_photos(url, left_out)
            names.sort(key=natural_key)
        reading = _Reading(folder, max_pixels, sample_range)
        super().__init__([BucketPhoto(reading, name) for name in names])
        if left_out:
            self.left_out = dict(left_out.most_common())
            _log.warning("%s.", describe_left_out(self.left_out))


def _search(system: Any, url: str, root: str, entries: list[dict[str, Any]], left_out: Counter[str]) -> Iterator[str]:
    """Yield the names of the photos below ``root``. Count the other objects."""
    folders = list[str]()
    while True:
        for entry in entries:
            path: str = entry["name"]
            name = path[len(root) + 1 :]
            parts = name.removesuffix("/").split("/")
            if parts[-1].startswith(".") and parts[-1] not in (".", ".."):
                continue
            is_odd = not {"", ".", ".."}.isdisjoint(parts) or "\0" in name
            if entry["type"] == "directory":
                if not is_odd:
                    folders.append(path.rstrip("/"))
            elif name and not name.endswith("/"):  # otherwise it is the mark of an empty folder
                suffix = PurePosixPath(name).suffix.lower()
                if suffix in PHOTO_SUFFIXES and not is_odd:
                    yield name
                else:
                    left_out[suffix] += 1
        if not folders:
            return
        folder = folders.pop()
        with access_to(f"{url.rstrip('/')}/{folder[len(root) + 1 :]}"):
            entries = system.ls(folder, detail=True)


def _copied(url: str, reading: _Reading) -> BinaryIO:
    """Copy an object to a temporary file: decoders need a descriptor, and jump in it."""
    system, root = open_bucket(reading.url)
    with access_to(url):
        remote = system.open(f"{root}{url[len(reading.url) :]}", "rb", block_size=_BLOCK_BYTES)
    try:
        with closing(remote):
            copy = TemporaryFile()  # noqa: SIM115 - it is returned open
            try:
                for block in _blocks(remote, url, reading.max_pixels):
                    copy.write(block)
                copy.flush()  # libtiff reads from the descriptor
            except BaseException:
                copy.close()
                raise
            return copy
    except OSError as e:  # those of the bucket are InputError
        raise OutputError(
            f"{url} cannot be copied to a temporary file: {e.strerror}. Free space, or set TMPDIR."
        ) from e


def _blocks(remote: Any, url: str, max_pixels: int) -> Iterator[bytes]:
    most_bytes = left_bytes = _METADATA_BYTES + _BYTES_OF_A_PIXEL * max_pixels
    while True:
        with access_to(url):
            block = bytes(remote.read(_BLOCK_BYTES))
        if not block:
            return
        left_bytes -= len(block)
        if left_bytes < 0:
            raise InputError(
                f"{url} has more than {most_bytes / 1e6:.0f} MB, more than a photo needs. Save it again as JPEG or PNG."
            )
        yield block
