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
    """Bytes of a library, with their checksum: damaged bytes never reach the library.

    Args:
        path: The file. It may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        """Return the content. It is empty if the file is missing, or, with a warning, unreadable or damaged."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as e:
            _log.warning("%s: cannot be read (%s); going on without it.", self.path, e.strerror)
            return b""
        content = data[_DIGEST:]
        if hashlib.sha256(content).digest() != data[:_DIGEST]:
            _log.warning("%s: differs from its hash; going on without it. It will be written again.", self.path)
            return b""
        return content

    def update(self, changed: Callable[[bytes], bytes]) -> None:
        """Replace the content, whole or not at all. Other processes wait. A failure is logged as a warning.

        Args:
            changed: Returns the new content from the old one.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock")):
                content = changed(self.read())
                write_bytes(self.path, hashlib.sha256(content).digest() + content)
        except OSError as e:
            _log.warning("%s: cannot be written (%s); going on without it.", self.path, e.strerror or e)
