"""Finds gallery masks that show a pair of entities as one (E-SAM eq. 8).

Gallery mask g encompasses the pair (a, b) if ``|a and g| >= encompass |a|``, ``|b and g| >= encompass |b|`` and
``|a or b| >= fill |g|``. Areas and boxes rule out most gallery masks before cells are counted.
"""

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
    """Find the first gallery mask that encompasses each pair (E-SAM eq. 8).

    Args:
        bits: Masks uint64 [N, H, ceil(W / 64)]; see ``pack``.
        box: Boxes int16 [N, 4] (x0, y0, x1, y1), half-open, in cells.
        area: Areas int32 [N] in cells.
        pairs: Indices of masks that do not overlap, int64 [P, 2].
        gallery_bits: Gallery masks uint64 [G, H, ceil(W / 64)].
        gallery_box: Boxes of the gallery masks, int16 [G, 4].
        gallery_area: Areas of the gallery masks, int32 [G].
        encompass: Share of each mask that the gallery mask must contain.
        fill: Share of the gallery mask that the pair must fill.

    Returns:
        Index of a gallery mask for each pair, int64 [P]; -1 if there is none.
    """
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
