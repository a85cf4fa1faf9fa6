"""Drawn scenes with exact truth: objects, their parts, and the parts of those, on plain or textured ground."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.export.configs import MASK_STRIDE
from esam_rt.export.train_tiny.views import Tile, View

Color = NDArray[np.float32]
SUBPIXEL_BITS = 3


@dataclass(frozen=True)
class Stencil:
    """A shape: mask uint8 [h, w], 255 inside, less at the edge; its top left pixel in the scene."""

    mask: NDArray[np.uint8]
    y: int
    x: int


def _color(rng: np.random.Generator) -> Color:
    return rng.uniform(0, 255, 3).astype(np.float32)


def _fill(h: int, w: int, color: Color, rng: np.random.Generator) -> NDArray[np.float32]:
    """Paint of one color, often with a slope, stripes or blots: float32 [h, w, 3]."""
    out = np.broadcast_to(color, (h, w, 3)).copy()
    kind, angle = rng.random(), rng.uniform(0, 2 * np.pi)
    y, x = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)
    along = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)
    if kind < 0.35:
        out += (along / max(h, w))[..., None] * rng.uniform(-80, 80, 3).astype(np.float32)
    elif kind < 0.5:
        out += np.sin(along * np.float32(2 * np.pi / rng.uniform(4, 30)))[..., None] * np.float32(rng.uniform(3, 25))
    elif kind < 0.75 and min(h, w) >= 8:
        side = int(2 ** rng.integers(2, 7))
        blots = rng.normal(0, rng.uniform(5, 25), (side, side, 3)).astype(np.float32)
        if rng.random() < 0.7:
            blots[:] = blots[..., :1]
        out += cv2.resize(blots, (w, h), interpolation=cv2.INTER_CUBIC)
    return out


def _shape(center_xy: NDArray[np.float64], radius: float, rng: np.random.Generator) -> Stencil:
    """An ellipse, a rectangle or a polygon."""
    margin = int(np.ceil(radius * 1.5)) + 2
    x0, y0 = (int(np.floor(c)) - margin for c in center_xy)
    mask, at = np.zeros((2 * margin, 2 * margin), np.uint8), center_xy - [x0, y0]
    angle, thin, kind = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1), rng.random()
    unit = 1 << SUBPIXEL_BITS
    if kind < 0.35:
        axes = max(1, round(radius * unit)), max(1, round(radius * thin * unit))
        middle = round(at[0] * unit), round(at[1] * unit)
        cv2.ellipse(mask, middle, axes, float(np.degrees(angle)), 0, 360, 255, -1, cv2.LINE_AA, SUBPIXEL_BITS)
        return Stencil(mask, y0, x0)
    if kind < 0.7:
        turn = 0.0 if rng.random() < 0.6 else angle
        corners = np.array([[-1, -thin], [1, -thin], [1, thin], [-1, thin]]) * radius
        corners = corners[:, ::-1] if rng.random() < 0.5 else corners
        points = corners @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    else:
        n = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, n))
        points = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.5, 1, (n, 1)) * radius
    cv2.fillPoly(mask, [np.round((points + at) * unit).astype(np.int32)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return Stencil(mask, y0, x0)


class _Scene:
    """A scene in the making: image float32 [S, S, 3], maps int16 [3, S, S]."""

    def __init__(self, size_px: int, rng: np.random.Generator) -> None:
        self.size_px, self.rng, self.count = size_px, rng, 1
        self.image = _fill(size_px, size_px, _color(rng), rng)
        self.maps = np.ones((3, size_px, size_px), np.int16)

    def draw(self, stencil: Stencil, level: int, color: Color, inside: int = 0) -> int:
        """Draw a region of a level, which gets a label of its own from that level down.

        Args:
            stencil: The shape.
            level: 0 object, 1 part, 2 sub-part.
            color: Its color.
            inside: The label of the region of the level above that it is cut to; 0: of an object.

        Returns:
            The label.
        """
        h, w = stencil.mask.shape
        y0, x0 = max(0, stencil.y), max(0, stencil.x)
        y1, x1 = min(self.size_px, stencil.y + h), min(self.size_px, stencil.x + w)
        self.count += 1
        if y1 <= y0 or x1 <= x0:
            return self.count
        box = np.s_[y0:y1, x0:x1]
        mask = stencil.mask[y0 - stencil.y : y1 - stencil.y, x0 - stencil.x : x1 - stencil.x]
        if inside:
            mask = mask * (self.maps[level - 1][box] == inside)
        alpha = (mask / np.float32(255))[..., None]
        self.image[box] += (_fill(y1 - y0, x1 - x0, color, self.rng) - self.image[box]) * alpha
        for labels in self.maps[level:]:
            labels[box][mask > 127] = self.count
        return self.count

    def object(self, stencil: Stencil, center_xy: NDArray[np.float64], radius: float, color: Color) -> None:
        """An object, large ones with parts, and those with parts of their own."""
        rng = self.rng
        whole = self.draw(stencil, 0, color)
        if radius < 14 or rng.random() < 0.3:
            return
        for _ in range(int(rng.integers(1, 5))):
            at, r = center_xy + rng.uniform(-0.6, 0.6, 2) * radius, radius * rng.uniform(0.15, 0.5)
            part = self.draw(_shape(at, r, rng), 1, _color(rng), whole)
            if r > 12 and rng.random() < 0.5:
                for _ in range(int(rng.integers(1, 3))):
                    spot = _shape(at + rng.uniform(-0.5, 0.5, 2) * r, r * rng.uniform(0.2, 0.5), rng)
                    self.draw(spot, 2, _color(rng), part)


def _rows(s: _Scene, rng: np.random.Generator) -> None:
    """Rows of equal things."""
    pitch = s.size_px * np.exp(rng.uniform(np.log(0.04), np.log(0.2)))
    radius = max(2.0, pitch * rng.uniform(0.2, 0.42))
    places = np.arange(pitch / 2, s.size_px - pitch / 4, pitch)
    form, one_color = int(rng.integers(1 << 30)), rng.random() < 0.4
    color, missing = _color(rng), rng.uniform(0, 0.4)
    for y in places:
        for x in places:
            if rng.random() > missing:
                center = np.array([x, y])
                stencil = _shape(center, radius, np.random.default_rng(form))
                s.object(stencil, center, radius, color if one_color else _color(rng))


def _lines(s: _Scene, rng: np.random.Generator) -> None:
    """Lines from edge to edge, thin ones too."""
    for _ in range(int(rng.integers(1, 6))):
        mask, ends = np.zeros((s.size_px, s.size_px), np.uint8), rng.uniform(-0.2, 1.2, (2, 2)) * s.size_px
        axis = int(rng.integers(2))
        ends[1, axis] = ends[0, axis]
        (ax, ay), (bx, by) = ends.astype(int).tolist()
        cv2.line(mask, (ax, ay), (bx, by), 255, int(rng.integers(3, 12)), cv2.LINE_AA)
        s.draw(Stencil(mask, 0, 0), 0, _color(rng))


def scene(size_px: int, rng: np.random.Generator) -> View:
    """A drawn scene.

    Args:
        size_px: Side S of the view.
        rng: Source of chance.

    Returns:
        A view of one tile. The ground is a region like any other; a region without parts is its own part.
    """
    s = _Scene(size_px, rng)
    kind = rng.random()
    if kind < 0.45:
        _rows(s, rng)
    else:
        for _ in range(int(rng.integers(2, 26))):
            radius = size_px * np.exp(rng.uniform(np.log(0.008), np.log(0.3)))
            center = rng.uniform(0, size_px, 2)
            s.object(_shape(center, radius, rng), center, radius, _color(rng))
        if kind > 0.88:
            _lines(s, rng)
    image = s.image + rng.normal(0, rng.uniform(0, 8), (size_px, size_px, 1)).astype(np.float32)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    half = MASK_STRIDE // 2
    maps = np.ascontiguousarray(s.maps[:, half::MASK_STRIDE, half::MASK_STRIDE])
    valid = np.ones(maps.shape[1:], bool)
    return View(np.clip(image, 0, 255).astype(np.uint8), valid, [Tile(maps, 0, 0, False, 0)])
