"""Masks in the forms of COCO (RLE, compressed or not, or polygons), checked before the C code of pycocotools runs.

pycocotools 2.0.11 does not check the runs. If a string does not fit the size of its mask, ``decode`` writes past the
end of the mask and ``iou`` may never return.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pycocotools import mask as coco_mask

from esam_rt.errors import InputError
from esam_rt.rle import run_lengths


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
