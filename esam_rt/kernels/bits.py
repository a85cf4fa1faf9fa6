"""Packs masks into words, and reads areas, boxes and unions from packed masks.

A packed mask has one bit for each cell. Cell x of a row is bit x % 64 of word x // 64. Unused bits are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from esam_rt.kernels.jit import BITS, INDEX, kernel


def _popcount(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


popcount = cast(Callable[[np.uint64], int], intrinsic(_popcount))
"""Number of set bits of a uint64, for use inside kernels. It is an int64, because uint64 plus int64 is a float."""


def pack(masks_nhw: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Pack masks.

    Args:
        masks_nhw: bool [N, H, W].

    Returns:
        uint64 [N, H, ceil(W / 64)].
    """
    n, h, w = masks_nhw.shape
    octets = np.zeros((n, h, -(-w // 64) * 8), np.uint8)
    octets[:, :, : -(-w // 8)] = np.packbits(masks_nhw, axis=2, bitorder="little")
    return octets.view(np.uint64)


def unpack(bits: NDArray[np.uint64], width: int) -> NDArray[np.bool_]:
    """Unpack masks.

    Args:
        bits: uint64 [N, H, ceil(width / 64)].
        width: Cells in a row.

    Returns:
        bool [N, H, width].
    """
    octets = np.ascontiguousarray(bits).view(np.uint8)
    return np.unpackbits(octets, axis=2, count=width, bitorder="little").view(np.bool_)


def areas_and_boxes(bits: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """Measure masks.

    Args:
        bits: uint64 [N, H, ceil(W / 64)].

    Returns:
        Areas int32 [N] in cells, and boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells; zeros for empty masks.
    """
    area = np.empty(len(bits), np.int32)
    box = np.zeros((len(bits), 4), np.int16)
    _areas_and_boxes(np.ascontiguousarray(bits), area, box)
    return area, box


@kernel(BITS, types.int32[::1], types.int16[:, ::1])
def _areas_and_boxes(bits: NDArray[np.uint64], area: NDArray[np.int32], box: NDArray[np.int16]) -> None:
    n, h, words = bits.shape
    columns = np.empty(words, np.uint64)  # OR of all rows
    for i in range(n):
        for w in range(words):
            columns[w] = 0
        total = 0
        y0, y1 = h, 0
        for y in range(h):
            row = np.uint64(0)
            for w in range(words):
                word = bits[i, y, w]
                row |= word
                columns[w] |= word
                total += popcount(word)
            if row != 0:
                y0 = min(y0, y)
                y1 = y + 1
        area[i] = total
        if total == 0:
            continue
        first, last = 0, words - 1
        while columns[first] == 0:
            first += 1
        while columns[last] == 0:
            last -= 1
        low, high = columns[first], columns[last]
        for shift in (1, 2, 4, 8, 16, 32):  # set every bit below the highest one
            high |= high >> np.uint64(shift)
        box[i, 0] = first * 64 + popcount((low & (~low + np.uint64(1))) - np.uint64(1))
        box[i, 1] = y0
        box[i, 2] = last * 64 + popcount(high)
        box[i, 3] = y1


def rasterize_union(bits: NDArray[np.uint64], index: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return the union of masks.

    Args:
        bits: uint64 [N, H, ceil(W / 64)].
        index: Masks to unite, int [K].

    Returns:
        uint64 [H, ceil(W / 64)]; zeros for an empty index.
    """
    union = np.zeros(bits.shape[1:], np.uint64)
    _or_into(np.ascontiguousarray(bits), np.ascontiguousarray(index, np.int64), union)
    return union


@kernel(BITS, INDEX, types.uint64[:, ::1])
def _or_into(bits: NDArray[np.uint64], index: NDArray[np.int64], union: NDArray[np.uint64]) -> None:
    h, words = union.shape
    for k in range(len(index)):
        for y in range(h):
            for w in range(words):
                union[y, w] |= bits[index[k], y, w]
