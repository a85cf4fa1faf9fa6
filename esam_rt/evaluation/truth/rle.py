"""Masks in the forms of COCO (RLE, compressed or not, or polygons), checked before the C code of pycocotools runs.

pycocotools 2.0.11 does not check the runs. If a string does not fit the size of its mask, ``decode`` writes past the
end of the mask and ``iou`` may never return.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from esam_rt.errors import InputError


def read_mask(segmentation: object, height: int, width: int, where: str) -> dict[str, Any]:
    """Return the ``segmentation`` of a COCO annotation as compressed RLE.

    Args:
        segmentation: RLE with ``size`` and ``counts`` (bytes, str or list), or a list of polygons.
        height: Height of the photo in pixels.
        width: Width of the photo in pixels.
        where: Beginning of error messages.

    Raises:
        InputError: The size is another, runs do not fill the mask, or a polygon has less than three points.
    """
    if isinstance(segmentation, Mapping):
        return _rle(segmentation, height, width, where)
    if isinstance(segmentation, list) and segmentation:
        return _polygons(segmentation, height, width, where)
    raise InputError(
        f"{where}: segmentation is {_shortened(segmentation)}; expected RLE (size, counts) or "
        "polygons. Write the file again."
    )


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
        rle: ``size`` and ``counts`` (bytes or str), checked by ``read_mask``.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    runs = run_lengths(counts.encode("ascii") if isinstance(counts, str) else counts)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _rle(segmentation: Mapping[str, Any], height: int, width: int, where: str) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2 or not isinstance(counts, str | bytes | list):
        raise InputError(
            f"{where}: segmentation is {_shortened(segmentation)}; expected RLE with size and "
            "counts. Write the file again."
        )
    if list(size) != [height, width]:
        found = " x ".join(str(s) for s in reversed(size))
        raise InputError(
            f"{where}: the mask is {found} pixels; expected {width} x {height}, as the photo of the ground truth. Give "
            "results and ground truth of one resolution."
        )
    if isinstance(counts, list):
        whole = all(isinstance(n, int) and n >= 0 for n in counts)
        if not whole or sum(counts) != height * width:
            raise InputError(
                f"{where}: the runs of the RLE do not fill {width} x {height} pixels. Write the file again."
            )
        return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    try:
        runs = run_lengths(data)
        fills = bool((runs >= 0).all()) and int(runs.sum()) == height * width
    except ValueError:
        fills = False
    if not fills:
        raise InputError(f"{where}: the RLE's string does not fill {width} x {height} pixels. Write the file again.")
    return {"size": [height, width], "counts": data}


def _polygons(segmentation: list[Any], height: int, width: int, where: str) -> dict[str, Any]:
    for polygon in segmentation:
        numbers = isinstance(polygon, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise InputError(
                f"{where}: a polygon is {_shortened(polygon)}; expected x, y, x, y, … of at least three points. "
                "Write the file again."
            )
        if max(map(abs, polygon)) > 10 * max(height, width):  # pycocotools walks the outline pixel by pixel
            raise InputError(f"{where}: a polygon reaches far outside {width} x {height} pixels. Write the file again.")
    return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
