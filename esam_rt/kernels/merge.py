"""Finds masks that show a pair of entities as one (E-SAM eq. 8)."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from esam_rt.kernels.iou import box_overlap, overlap
from esam_rt.kernels.jit import AREAS, BITS, BOXES, array, kernel


def encompassing(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    pairs: NDArray[np.int64],
    gallery_bits: NDArray[np.uint64],
    gallery_box: NDArray[np.int16],
    gallery_area: NDArray[np.int32],
    encompass: float,
    fill: float,
) -> NDArray[np.int64]:
    """For each pair [P, 2] of non-overlapping masks a gallery mask g with |a∩g| ≥ encompass·|a|, the same of b, and
    |a∪b| ≥ fill·|g| (E-SAM eq. 8): int64 [P], the first one, -1 = none."""
    out = np.full(len(pairs), -1, np.int64)
    _encompassing(
        bits, box, area, np.ascontiguousarray(pairs, np.int64), gallery_bits, gallery_box, gallery_area,
        encompass, fill, out,
    )  # fmt: skip
    return out


@kernel(BITS, BOXES, AREAS, array(types.int64, 2), BITS, BOXES, AREAS, types.float64, types.float64, types.int64[::1])
def _encompassing(
    bits: NDArray[np.uint64],
    box: NDArray[np.int16],
    area: NDArray[np.int32],
    pairs: NDArray[np.int64],
    gallery_bits: NDArray[np.uint64],
    gallery_box: NDArray[np.int16],
    gallery_area: NDArray[np.int32],
    encompass: float,
    fill: float,
    out: NDArray[np.int64],
) -> None:
    for k in range(len(pairs)):
        a, b = pairs[k, 0], pairs[k, 1]
        pair_area = area[a] + area[b]
        for g in range(len(gallery_bits)):
            size = gallery_area[g]
            if pair_area < fill * size or size < encompass * pair_area:
                continue
            if box_overlap(box, a, gallery_box, g) < encompass * area[a]:
                continue
            if overlap(bits, box, a, gallery_bits, gallery_box, g) < encompass * area[a]:
                continue
            if overlap(bits, box, b, gallery_bits, gallery_box, g) < encompass * area[b]:
                continue
            out[k] = g
            break
