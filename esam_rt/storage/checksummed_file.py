"""A file that starts with its own checksum."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from esam_rt.storage.atomic import write_bytes

_log = logging.getLogger("esam_rt")
_DIGEST = 32  # bytes of SHA-256, before the content


class ChecksummedFile:
    """Bytes of a library in a file, with their hash: what is damaged never reaches the library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        """The content; empty where there is none, and where it is damaged, with a warning."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as e:
            _log.warning("%s: cannot be read (%s); going on without it.", self.path, e.strerror)
            return b""
        content = data[_DIGEST:]
        if hashlib.sha256(content).digest() != data[:_DIGEST]:
            _log.warning("%s: differs from its hash; going on without it, and making it anew.", self.path)
            return b""
        return content

    def update(self, changed: Callable[[bytes], bytes]) -> None:
        """Put what `changed` makes of the content in its place, whole or not at all, with no other process between; a
        warning where that cannot be."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                content = changed(self.read())
                write_bytes(self.path, hashlib.sha256(content).digest() + content)
        except OSError as e:
            _log.warning("%s: cannot be written (%s); going on without it.", self.path, e.strerror or e)
