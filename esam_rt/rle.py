"""Reads masks in COCO's compressed run-length encoding (RLE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """Decode COCO's compressed counts.

    A number is a group of 5-bit digits, the lowest first. Bit 5 is set in all digits but the last. Bit 4 of the last
    digit is the sign. From the fourth number on, a number is the difference to the number two places before.

    Args:
        counts: The string as ASCII.

    Returns:
        Run lengths int64 [R] in pixels, runs of 0 and of 1 in turn, column by column.

    Raises:
        ValueError: The bytes are no such string.
    """
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if len(digits) == 0 or (digits < 0).any() or (digits > 63).any() or digits[-1] & 32:
        raise ValueError("not a compressed RLE")
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > 10:
        raise ValueError("a run longer than any mask")
    shift = 5 * (np.arange(len(digits)) - np.repeat(first, length))
    values = np.add.reduceat((digits & 31) << shift, first)
    values -= np.where(digits[last] & 16, np.int64(1) << 5 * length, 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def dense_mask(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask bool [H, W] of a compressed RLE. (``decode`` of pycocotools warns with NumPy 2.)

    Args:
        rle: ``size`` and ``counts`` (bytes or str), whose runs fill the mask.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    runs = run_lengths(counts.encode("ascii") if isinstance(counts, str) else counts)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
