"""Changes files as damage and attackers do. A seed gives the same change each time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEAD_BYTES = 160  # sizes and tables stand there; half of the changes go there

Change = Callable[[Random, bytearray, Sequence[bytes]], None]


def mutated(random: Random, corpus: Sequence[bytes]) -> bytes:
    """One of the files with 1 to 8 changes, mostly few. Checksums of a PNG are right again in half of the cases."""
    data = bytearray(random.choice(corpus))
    for _ in range(min(1 + int(random.expovariate(1)), 8)):
        if data:
            random.choice(CHANGES)(random, data, corpus)
    if random.random() < 0.5:
        mend_png(data)
    return bytes(data)


def place(random: Random, data: bytearray) -> int:
    return random.randrange(min(len(data), HEAD_BYTES) if random.random() < 0.5 else len(data))


def flip_bit(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    data[place(random, data)] ^= 1 << random.randrange(8)


def set_byte(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    data[place(random, data)] = random.randrange(256)


def set_number(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """A number of 1, 2, 4 or 8 bytes becomes the least, the largest or one near them."""
    size, at = random.choice((1, 2, 4, 8)), place(random, data)
    value = (random.choice(NUMBERS) + random.randint(-1, 1)) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, random.choice(("little", "big")))[: len(data) - at]


def cut(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    del data[place(random, data) :]


def remove(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = place(random, data)
    del data[at : at + random.randint(1, 64)]


def repeat(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = place(random, data)
    piece = data[at : at + random.randint(1, 64)]
    data[at:at] = piece * random.randint(1, 8)


def insert(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = place(random, data)
    data[at:at] = random.randbytes(random.randint(1, 32))


def erase(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    at = place(random, data)
    end = min(len(data), at + random.randint(1, 64))
    data[at:end] = bytes([random.choice((0, 0xFF))]) * (end - at)


def splice(random: Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    """The end of another file."""
    other = random.choice(corpus)
    data[place(random, data) :] = other[random.randrange(len(other)) :]


CHANGES: tuple[Change, ...] = (
    *(flip_bit, set_byte, set_byte, set_number, set_number, set_number),
    *(cut, remove, repeat, insert, erase, splice),
)


def mend_png(data: bytearray) -> None:
    """Make the checksums of a PNG's chunks right, so that a decoder reads further."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
