"""Bounds of reading a photo. They are checked before anything is decoded, so that no file costs minutes or the memory.

Decoding takes time for each pixel, for each byte and, in a JPEG, for each scan. Each of them is bounded, and a file of
few bytes may not announce many pixels. Benchmark: benchmarks/odd_images.py.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from esam_rt.errors import InputError
from esam_rt.rounding import ceil_div

MAX_PIXELS = 200_000_000  # of a photo, unless the caller sets another limit
MAX_SIDE = 65_500  # libjpeg's limit
# A photo has at least a byte for 40 pixels, a drawing of two colors for 400. Blank pages of up to 16 megapixels pass.
_PIXELS_OF_A_BYTE = 400
_PIXELS_OF_ANY_FILE = 16_000_000
_BYTES_OF_A_CALL = 2048  # a call to read costs as much time: many small pieces are as slow as a large file
_BYTES_OF_A_PIXEL = 8  # a color and alpha of 16 bits


class BoundedFile(io.RawIOBase):
    """A file of which no more is read than a photo can need.

    Args:
        file: The file, open.
        path: Its path, for messages.
        allowed_bytes: Most bytes that are read before `allow` is called. Some plugins of Pillow read the whole file.

    Attributes:
        size: Bytes of the file.
    """

    def __init__(self, file: BinaryIO, path: Path | str, allowed_bytes: int = 256_000_000) -> None:
        super().__init__()
        self._file, self._path = file, path
        self._left = allowed_bytes
        self.size = os.fstat(file.fileno()).st_size

    def allow(self, size_bytes: int) -> None:
        """Let more be read.

        Args:
            size_bytes: This much.
        """
        self._left += size_bytes

    def read(self, size: int | None = -1) -> bytes:
        """Read bytes.

        Args:
            size: Most bytes. None or a negative number means all.

        Returns:
            The bytes.

        Raises:
            InputError: If the photo cannot need as much.
        """
        rest = max(0, self.size - self._file.tell())
        size = rest if size is None or size < 0 else min(size, rest)
        self._left -= size + _BYTES_OF_A_CALL
        if self._left < 0:
            raise InputError(
                f"{self._path} holds more data than a photo of its size needs ({self.size / 1e6:.1f} MB). Save it "
                "again as JPEG or PNG."
            )
        return self._file.read(size)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer and return the number of bytes, see `read`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the descriptor. libtiff reads from it."""
        return self._file.fileno()

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True


def pixels_for(size_bytes: int) -> int:
    """Return how many pixels a file of some bytes may have."""
    return _PIXELS_OF_ANY_FILE + _PIXELS_OF_A_BYTE * size_bytes


def check_size(size: tuple[int, int], file: BoundedFile, path: Path | str, max_pixels: int) -> None:
    """Check the size of a photo, and let its pixels be read.

    Args:
        size: Width and height in pixels.
        file: The photo.
        path: Its path, for messages.
        max_pixels: A photo with more pixels is refused.

    Raises:
        InputError: If it is too large, too long, or has too few bytes for a photo.
    """
    width, height = size
    pixels = width * height
    if pixels <= 0:
        raise InputError(f"{path} is damaged: it has {width} x {height} pixels. Copy the whole photo again.")
    if pixels > max_pixels:
        raise InputError(
            f"{path} is {width} x {height} = {pixels / 1e6:.1f} megapixels, the cap is {max_pixels / 1e6:g}. "
            f"Make it smaller or raise the cap with --max-megapixels {ceil_div(pixels, 1_000_000)}."
        )
    if max(size) > MAX_SIDE:
        raise InputError(
            f"{path} is {width} x {height} pixels, a side has at most {MAX_SIDE}. Cut it into parts or make it smaller."
        )
    if pixels > pixels_for(file.size):
        raise InputError(
            f"{path} has {file.size} bytes for {width} x {height} pixels, too few for a photo: it is damaged, cut "
            "short or a plain area. Copy the whole photo again, or make it smaller."
        )
    file.allow(_BYTES_OF_A_PIXEL * pixels)
