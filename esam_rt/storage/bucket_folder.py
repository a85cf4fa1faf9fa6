"""BucketFolder: a folder in a bucket that results are written to. Each object appears whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from esam_rt.errors import InputError, OutputError, SettingsError
from esam_rt.storage.atomic import output_error
from esam_rt.storage.buckets import access_to, open_bucket

_BLOCK_BYTES = 8 << 20  # of one request
MOST_KEY_BYTES = 1024  # of an object's name, in all clouds
_PATTERNS = "*[]"  # fsspec takes them for patterns when it removes


class BucketFolder:
    """A folder in a bucket. Each cloud's package repeats what fails for a moment.

    Args:
        url: The folder, such as ``s3://bucket/result``. It may be missing, the bucket may not.

    Raises:
        SettingsError: If the URL names no bucket, or holds a query, a password, ``*``, ``[`` or ``]``.
        MissingDependencyError: If fsspec, or its package for this bucket, is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if any(mark in url for mark in _PATTERNS):
            raise SettingsError(f"--out {url}: found one of {_PATTERNS}, expected the name of a folder. Rename it.")
        try:
            self._system, self._root = open_bucket(url)
        except InputError as e:
            raise SettingsError(f"--out: {e}") from e

    def fits(self, name: str, more_bytes: int = 0) -> bool:
        """Tell if an object can have a name.

        Args:
            name: Name below the folder.
            more_bytes: Bytes that are added to it.
        """
        try:
            return len(self._path(name).encode()) + more_bytes <= MOST_KEY_BYTES
        except UnicodeEncodeError:  # a file's name that is not UTF-8
            return False

    def names(self, folder: str = "") -> list[str]:
        """List what is directly in the folder, or in a folder of it.

        Args:
            folder: Its name. It may be missing.

        Returns:
            The names of objects and folders, sorted.

        Raises:
            OutputError: If they cannot be read.
        """
        path = self._path(folder)
        with access_to(self.url, OutputError):
            try:
                found = self._system.ls(path, detail=False)
            except FileNotFoundError:
                return []
        return sorted({str(entry).rstrip("/").rpartition("/")[2] for entry in found if entry.rstrip("/") != path})

    def read(self, name: str, max_bytes: int) -> bytes | None:
        """Read a small object.

        Args:
            name: Its name. It may be missing.
            max_bytes: No more is read.

        Raises:
            OutputError: If it cannot be read.
        """
        with access_to(f"{self.url}/{name}", OutputError):
            try:
                return bytes(self._system.cat_file(self._path(name), start=0, end=max_bytes))
            except FileNotFoundError:
                return None

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a file.

        Args:
            name: Its name.
            path: The file. It is replaced.

        Raises:
            OutputError: If it cannot be read, or the file cannot be written.
        """
        url = f"{self.url}/{name}"
        with access_to(url, OutputError):
            remote = self._system.open(self._path(name), "rb", block_size=_BLOCK_BYTES)
        with remote:
            try:
                with path.open("wb") as file:
                    while True:
                        with access_to(url, OutputError):
                            block = remote.read(_BLOCK_BYTES)
                        if not block:
                            return
                        file.write(block)
            except OutputError:
                raise
            except OSError as e:
                raise output_error(path, e) from e

    def write(self, name: str, data: bytes) -> None:
        """Write a small object.

        Args:
            name: Its name.
            data: Its content.

        Raises:
            OutputError: If it cannot be written.
        """
        with access_to(self.url, OutputError):
            self._system.pipe_file(self._path(name), data)

    def put(self, folder: Path, names: Sequence[str]) -> None:
        """Copy files into the bucket, several at a time.

        Args:
            folder: Folder of the files.
            names: Their names in it, and in the bucket's folder.

        Raises:
            OutputError: If one cannot be written.
        """
        if not names:
            return
        with access_to(self.url, OutputError):
            self._system.put([str(folder / name) for name in names], [self._path(name) for name in names])

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, and folders with all that is in them, one after the other.

        Args:
            names: Their names. They may be missing.

        Raises:
            OutputError: If one cannot be removed.
        """
        for name in names:
            with access_to(self.url, OutputError):
                try:
                    self._system.rm(self._path(name), recursive=True)
                except FileNotFoundError:
                    continue

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root
