"""Photo files as bytes, written apart from the libraries that read them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, bits: int, color: int, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG file. ``rows`` are filtered; ``before`` and ``after`` are chunks around the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + after + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes) -> bytes:
    """A little-endian TIFF file of one page. ``data`` begins at byte 8. A tag has a type, 3 or 4, and values."""
    offset = 8 + len(data)
    entries, values = b"", b""
    after = offset + 2 + 12 * len(tags) + 4
    for code, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}{'HI'[kind - 3]}", *numbers)
        if len(packed) > 4:
            place = struct.pack("<I", after + len(values))
            values += packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", code, kind, len(numbers)) + place
    return b"II*\0" + struct.pack("<I", offset) + data + struct.pack("<H", len(tags)) + entries + bytes(4) + values


def jpeg_segments(segments: Iterable[tuple[int, bytes]]) -> bytes:
    """Segments of a JPEG file: marker code and content."""
    return b"".join(struct.pack(">BBH", 0xFF, code, len(data) + 2) + data for code, data in segments)
