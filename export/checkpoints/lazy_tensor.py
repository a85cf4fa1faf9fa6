"""Tensors in a file, each read when it is asked for: nothing of a large checkpoint stays in memory or mapped."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from esam_rt.errors import ModelError

FLOATS: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
HEADER_BYTES_MAX = 4 << 20  # of names and shapes; SAM's take 0.1 MB. Hostile ones are slow to parse.
_PIECE_BYTES = 1 << 20


@dataclass
class FileRange:
    """Bytes of a file. crc32: of the whole range, to be compared at the first read; None where there is nothing to."""

    path: Path
    start: int
    size: int
    crc32: int | None = None

    def read(self, first: int = 0, size: int | None = None) -> NDArray[np.uint8]:
        """`size` bytes from `first` on, by default all; ModelError if they cannot be read or the range is damaged."""
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
                "it was changed while it was read: try again."
            )
        if self.crc32 is not None:
            if self.crc32 != (zlib.crc32(data.data) if size == self.size else self._checksum()):
                raise ModelError(
                    f"{self.path}: found bytes from {self.start} on that differ from their checksum; the file is "
                    "damaged: download or copy it again."
                )
            self.crc32 = None  # once: many tensors may be parts of one large storage
        return data

    def _checksum(self) -> int:
        crc, whole = 0, FileRange(self.path, self.start, self.size)
        for first in range(0, self.size, _PIECE_BYTES):
            crc = zlib.crc32(whole.read(first, min(_PIECE_BYTES, self.size - first)).data, crc)
        return crc


@dataclass(frozen=True)
class FileTensor:
    """A view of stored elements that lies within them.

    dtype: a key of FLOATS, or the file's own word for a type that weights do not have. strides, offset: in elements,
    none negative. byte_order: "<" or ">".
    """

    stored: FileRange
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    byte_order: str = "<"

    def read(self) -> NDArray[Any]:
        """A fresh array, C order; ModelError if the file cannot be read any more."""
        dtype = FLOATS[self.dtype]
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        strides = [s if n > 1 else 0 for n, s in zip(self.shape, self.strides, strict=True)]
        span = 1 + sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True))
        size = dtype.itemsize
        raw = self.stored.read(self.offset * size, span * size).view(f"{self.byte_order}u{size}")
        elements = raw.astype(f"u{size}", copy=False).view(dtype)
        return np.asarray(as_strided(elements, self.shape, [s * size for s in strides]), order="C")


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of an array in C order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def unreadable(path: Path, cause: OSError) -> ModelError:
    """The error for a file of a checkpoint that the system does not give."""
    return ModelError(f"{path}: cannot be read ({cause.strerror or cause}); expected a checkpoint file.")
