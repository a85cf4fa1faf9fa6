"""Windows of a photo that the model sees one by one: the whole photo, tiles, and a panorama beyond its edge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from esam_rt.errors import InputError
from esam_rt.settings import Panorama, Tiles


@dataclass(frozen=True)
class Rectangle:
    """Pixels of a photo: rows ``y0`` to ``y1`` and columns ``x0`` to ``x1``, half-open."""

    y0: int
    x0: int
    y1: int
    x1: int

    def common(self, other: Rectangle) -> Rectangle | None:
        """Return the pixels that lie in both rectangles, or ``None``.

        Args:
            other: A rectangle.
        """
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Rectangle(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


@dataclass(frozen=True)
class Window:
    """A part of a photo that the model sees at once.

    Attributes:
        y0: First row, in pixels.
        x0: First column, in pixels.
        height: Rows.
        width: Columns. A window of a panorama may reach beyond the right edge, and goes on at the left edge.
        latitudes: Latitude of the upper and the lower edge in a panorama, in radians; ``None`` in other photos.
    """

    y0: int
    x0: int
    height: int
    width: int
    latitudes: tuple[float, float] | None = None

    def parts(self, photo_width: int) -> Iterator[Rectangle]:
        """Yield the window as rectangles of the photo, from left to right in the window.

        Args:
            photo_width: Columns of the photo.
        """
        y1, x1 = self.y0 + self.height, self.x0 + self.width
        yield Rectangle(self.y0, self.x0, y1, min(x1, photo_width))
        if x1 > photo_width:
            yield Rectangle(self.y0, 0, y1, x1 - photo_width)


def windows_of(photo_hw: tuple[int, int], tiles: Tiles, panorama: Panorama) -> list[Window]:
    """Return the windows of a photo: the whole photo first, then layers of tiles, coarse ones first.

    Args:
        photo_hw: Height and width of the photo, in pixels.
        tiles: Numbers of the tiles.
        panorama: Numbers of panoramas.

    Raises:
        InputError: ``panorama`` is enabled, and the photo is not twice as wide as high.
    """
    h, w = photo_hw
    wraps = panorama.enabled
    if wraps and abs(w - 2 * h) > 0.02 * h:
        raise InputError(
            f"Photo: is {w} x {h} pixels; expected twice as wide as high, because panorama.enabled is true. "
            "Leave it false for other photos."
        )
    layers = [(h, w + round(w * panorama.overlap) if wraps else w)]
    for n in (2**layer for layer in range(1, tiles.crop_n_layers + 1)):
        across = n * (1 - tiles.overlap) if wraps else n - (n - 1) * tiles.overlap
        layers.append((math.ceil(h / (n - (n - 1) * tiles.overlap)), math.ceil(w / across)))
    if 0 < tiles.side_px < max(h, w):
        layers.append((min(h, tiles.side_px), min(layers[0][1], tiles.side_px)))
    return [
        Window(y, x, height, width, (_latitude(y, h), _latitude(y + height, h)) if wraps else None)
        for height, width in layers
        for y in _starts(h, height, tiles.overlap)
        for x in (_starts_around(w, width, tiles.overlap) if wraps else _starts(w, width, tiles.overlap))
    ]


def _latitude(y: int, height: int) -> float:
    return math.pi * (0.5 - y / height)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of sides that cover a length, evenly spread, with at least the overlap."""
    steps = math.ceil((length - side) / max(1.0, side * (1 - overlap)))
    return [(length - side) * i // max(1, steps) for i in range(steps + 1)]


def _starts_around(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of sides that cover a circle, evenly spread, with at least the overlap."""
    count = 1 if side >= length else max(2, math.ceil(length / max(1.0, side * (1 - overlap))))
    return [length * i // count for i in range(count)]
