"""Tensors in a file. Each is read when it is asked for: a large checkpoint is never in memory or mapped as a whole."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from esam_rt.errors import ModelError
from esam_rt.export.float_types import FLOAT_DTYPES

HEADER_BYTES_MAX = 4 << 20  # names and shapes; those of SAM take 0.1 MB. A hostile header is slow to parse.
_PIECE_BYTES = 1 << 20


@dataclass
class FileRange:
    """A range of bytes in a file.

    Attributes:
        path: The file.
        start: Offset of the first byte.
        size: Bytes in the range.
        crc32: Checksum of the whole range, compared at the first read. None if unknown or already compared.
    """

    path: Path
    start: int
    size: int
    crc32: int | None = None

    def read(self, first: int = 0, size: int | None = None) -> NDArray[np.uint8]:
        """Read bytes of the range.

        Args:
            first: Offset within the range.
            size: Number of bytes. Default: up to the end of the range.

        Returns:
            The bytes, uint8 [size].

        Raises:
            ModelError: The bytes cannot be read, or the range differs from its checksum.
        """
        size = self.size - first if size is None else size
        data = np.empty(size, np.uint8)
        try:
            with self.path.open("rb") as f:
                f.seek(self.start + first)
                found = f.readinto(data.data)
        except OSError as e:
            raise unreadable(self.path, e) from e
        if found != size:
            raise ModelError(
                f"{self.path}: found {self.start + first + found} bytes, expected {self.start + self.size} or more; "
                "the file was changed while it was read: try again."
            )
        if self.crc32 is not None:
            if self.crc32 != (zlib.crc32(data.data) if size == self.size else self._checksum()):
                raise ModelError(
                    f"{self.path}: found bytes from {self.start} on that differ from their checksum; the file is "
                    "damaged: download or copy it again."
                )
            self.crc32 = None  # compare once: many tensors may share one large storage
        return data

    def _checksum(self) -> int:
        crc, whole = 0, FileRange(self.path, self.start, self.size)
        for first in range(0, self.size, _PIECE_BYTES):
            crc = zlib.crc32(whole.read(first, min(_PIECE_BYTES, self.size - first)).data, crc)
        return crc


@dataclass(frozen=True)
class FileTensor:
    """A view of elements stored in a file.

    Attributes:
        stored: The bytes of all elements. The view must lie within them.
        dtype: A key of ``FLOAT_DTYPES``, or the file's own word for any other type.
        shape: The view's shape.
        strides: The view's strides in elements, none negative.
        offset: The view's first element.
        byte_order: ``<`` or ``>``.
    """

    stored: FileRange
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    byte_order: str = "<"

    def read(self) -> NDArray[Any]:
        """Read the tensor as a new array in C order. ModelError if the file cannot be read any more."""
        dtype = FLOAT_DTYPES[self.dtype]
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        strides = [s if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True)]
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True))
        size = dtype.itemsize
        raw = self.stored.read(self.offset * size, span * size).view(f"{self.byte_order}u{size}")
        elements = raw.astype(f"u{size}", copy=False).view(dtype)
        return np.asarray(as_strided(elements, self.shape, [s * size for s in strides]), order="C")


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array in C order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def unreadable(path: Path, cause: OSError) -> ModelError:
    """Make the error for a checkpoint file that the system cannot read."""
    return ModelError(f"{path}: cannot be read ({cause.strerror or cause}); expected a checkpoint file.")
