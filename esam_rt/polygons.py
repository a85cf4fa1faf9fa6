"""Polygons along the pixel edges of masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Polygon:
    """One connected piece of an entity. Points are pixels; (0, 0) is the top left corner of the top left pixel.

    Attributes:
        exterior_xy: float32 [K, 2], the outer ring. The last point is not the first one again.
        holes_xy: Rings float32 [K, 2] of the holes.
    """

    exterior_xy: NDArray[np.float32]
    holes_xy: tuple[NDArray[np.float32], ...] = ()

    @property
    def rings_xy(self) -> list[NDArray[np.float32]]:
        """The outer ring, then the holes."""
        return [self.exterior_xy, *self.holes_xy]

    def moved(self, x: float, y: float) -> Polygon:
        """Return the polygon at another place.

        Args:
            x: Pixels to the right.
            y: Pixels downward.
        """
        by = np.array([x, y], np.float32)
        return Polygon(self.exterior_xy + by, tuple(hole + by for hole in self.holes_xy))


def mask_polygons(mask: NDArray[np.bool_], tolerance_px: float = 0.0, holes: bool = True) -> list[Polygon]:
    """Trace a mask. Pixels that touch at a corner belong to one piece.

    Args:
        mask: bool [H, W].
        tolerance_px: Largest distance of a ring that has fewer points (Douglas-Peucker). 0 gives the exact mask: its
            pixels have their centers inside an odd number of rings.
        holes: False leaves holes out.

    Returns:
        The pieces, from the bottom upward.
    """
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    # Contours pass through the centers of border pixels. Each of the four quarters of a pixel is next to one corner of
    # it, so quarters on the contour become corners.
    mode = cv2.RETR_CCOMP if holes else cv2.RETR_EXTERNAL
    contours, tree = cv2.findContours(doubled, mode, cv2.CHAIN_APPROX_NONE)
    if len(contours) == 0:
        return []
    rings = [_simplified((np.asarray(contour)[:, 0] + 1) // 2, tolerance_px) for contour in contours]
    inner: dict[int, list[NDArray[np.float32]]] = {}
    parents = tree[0, :, 3].tolist()
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            inner.setdefault(parent, []).append(ring)
    return [Polygon(ring, tuple(inner.get(i, ()))) for i, ring in enumerate(rings) if parents[i] < 0]


def joined_ring(rings_xy: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Join rings to one, for formats with one ring an object.

    Each ring is reached over a seam of no width from the nearest point. Seams run back and forth, so a fill by the
    even-odd rule is that of the rings.

    Args:
        rings_xy: Rings float32 [K, 2].

    Returns:
        float32 [K, 2].
    """
    from scipy.spatial import cKDTree  # takes 0.1 s to import, and few runs join rings

    joined = rings_xy[0]
    for ring in rings_xy[1:]:
        distance, nearest = cKDTree(joined).query(ring)
        start = int(np.argmin(distance))
        at = int(nearest[start])
        turned = np.roll(ring, -start, axis=0)
        joined = np.concatenate([joined[: at + 1], turned, turned[:1], joined[at:]])
    return joined


def _simplified(ring_xy: NDArray[Any], tolerance_px: float) -> NDArray[np.float32]:
    """Drop the points that lie on straight lines, and those within the tolerance. A ring keeps three points or more."""
    ring = ring_xy[np.any(ring_xy != np.roll(ring_xy, 1, axis=0), axis=1)]
    turns = np.any(ring - np.roll(ring, 1, axis=0) != np.roll(ring, -1, axis=0) - ring, axis=1)
    ring = ring[turns]
    if tolerance_px > 0:
        fewer = np.asarray(cv2.approxPolyDP(ring[:, None], tolerance_px, closed=True))[:, 0]
        ring = fewer if len(fewer) >= 3 else ring
    return ring.astype(np.float32)
