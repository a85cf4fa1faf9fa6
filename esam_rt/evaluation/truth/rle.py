"""Masks as COCO writes them (RLE, compressed or not, or polygons), checked before pycocotools' C code sees them.

pycocotools 2.0.11 trusts the runs: of a string that does not fit the mask's size, `decode` writes past the mask and
`iou` may never return.
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
    """`segmentation` of a COCO annotation as compressed RLE of height x width pixels.

    Raises `InputError`, which begins with `where`, for anything else: another size, runs that do not fill the mask,
    polygons of less than three points.
    """
    if isinstance(segmentation, Mapping):
        return _rle(segmentation, height, width, where)
    if isinstance(segmentation, list) and segmentation:
        return _polygons(segmentation, height, width, where)
    raise InputError(f"{where}: segmentation is {_shown(segmentation)}; expected RLE (size, counts) or polygons.")


def runs_of(counts: bytes) -> NDArray[np.int64]:
    """Run lengths int64 [R] of COCO's compressed counts: 0s and 1s in turn, column by column. ValueError for bytes that
    are no such string.

    Each number is a group of 5-bit digits, lowest first, bit 5 set in all but the last, which also carries the sign;
    from the fourth on, a number is the difference to the one two before.
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
    """bool [H, W] of a compressed RLE. (pycocotools' `decode` warns with NumPy 2.)"""
    height, width = rle["size"]
    counts = rle["counts"]
    runs = runs_of(counts.encode("ascii") if isinstance(counts, str) else counts)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _rle(segmentation: Mapping[str, Any], height: int, width: int, where: str) -> dict[str, Any]:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2 or not isinstance(counts, str | bytes | list):
        raise InputError(f"{where}: segmentation is {_shown(segmentation)}; expected RLE with size and counts.")
    if list(size) != [height, width]:
        found = " x ".join(str(s) for s in reversed(size))
        raise InputError(
            f"{where}: the mask is {found} pixels, the photo of the ground truth {width} x {height}; give results and "
            "ground truth of the same resolution."
        )
    if isinstance(counts, list):
        whole = all(isinstance(n, int) and n >= 0 for n in counts)
        if not whole or sum(counts) != height * width:
            raise InputError(
                f"{where}: the runs of the RLE do not fill {width} x {height} pixels; write the file anew."
            )
        return dict(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))
    data = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    try:
        runs = runs_of(data)
        fills = bool((runs >= 0).all()) and int(runs.sum()) == height * width
    except ValueError:
        fills = False
    if not fills:
        raise InputError(f"{where}: the RLE's string does not fill {width} x {height} pixels; write the file anew.")
    return {"size": [height, width], "counts": data}


def _polygons(segmentation: list[Any], height: int, width: int, where: str) -> dict[str, Any]:
    for polygon in segmentation:
        numbers = isinstance(polygon, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise InputError(
                f"{where}: a polygon is {_shown(polygon)}; expected x, y, x, y, … of three points at least."
            )
        if max(map(abs, polygon)) > 10 * max(height, width):  # its outline is walked pixel by pixel
            raise InputError(f"{where}: a polygon reaches far outside {width} x {height} pixels; write the file anew.")
    return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
