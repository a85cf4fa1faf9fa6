"""PipedFile: a file that a library writes through a pipe, so that we see the errors of the system."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path

_BLOCK_BYTES = 1 << 20


class PipedFile:
    """Give a library the end of a pipe as its file, and copy what comes to the real file.

    The library never sees an error. After one, the rest is dropped, and the file ends with the last `sync`.

    Args:
        path: The file.

    Attributes:
        address: Path that the library opens. Windows has no such path.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("wb", buffering=0)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.address = f"/dev/fd/{self._writer}"
        self._lock = threading.Lock()
        self._error: OSError | None = None
        self._good_bytes = 0
        self._thread = threading.Thread(target=self._copy, name="esam-rt recording", daemon=True)
        self._thread.start()

    def is_opened(self) -> None:
        """Close our own end of the pipe, once the library has opened its end, or has failed to."""
        os.close(self._writer)

    def sync(self) -> None:
        """Copy all that the library has written.

        Raises:
            OSError: It could not be written.
        """
        self._drain()
        if self._error is not None:
            raise self._error
        self._good_bytes = self._file.tell()

    def close(self) -> None:
        """Copy the rest, once the library has closed its end, and wait until the file is on the disk.

        Raises:
            OSError: It could not be written. The part before the last `sync` stays. A file without it is removed.
        """
        self._thread.join()
        os.close(self._reader)
        with self._file:
            if self._error is not None:
                self._file.truncate(self._good_bytes)
                if not self._good_bytes:
                    self._path.unlink()
                raise self._error
            os.fsync(self._file.fileno())

    def _copy(self) -> None:
        waiting = select.poll()
        waiting.register(self._reader, select.POLLIN)
        while waiting.poll() and self._drain():
            pass

    def _drain(self) -> bool:
        """Copy what is in the pipe. Return False at its end."""
        with self._lock:
            while True:
                try:
                    data = memoryview(os.read(self._reader, _BLOCK_BYTES))
                except BlockingIOError:
                    return True
                if not data:
                    return False
                try:
                    while data and self._error is None:
                        data = data[self._file.write(data) :]
                except OSError as e:
                    self._error = e
