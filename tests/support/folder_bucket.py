"""A bucket that lies in a folder, so that several processes see it: ``gcs://local/tmp/x`` is ``/tmp/x``."""

from __future__ import annotations

from typing import Any

from fsspec import register_implementation
from fsspec.implementations.local import LocalFileSystem

URL = "gcs://local"


class FolderBucket(LocalFileSystem):
    """A folder under the URL of a bucket. Its folders need not be made."""

    protocol = "gcs"

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(str(path).removeprefix(URL)))


def register() -> None:
    """Let ``gcs://`` lead to such buckets, in this process."""
    register_implementation("gcs", FolderBucket, clobber=True)
