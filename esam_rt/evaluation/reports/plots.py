"""Precision/recall plots as SVG, styled by the page they stand in."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 300, 46, 12, 44, 210  # of the square, and the margins around it


def curves(lines: Sequence[tuple[str, NDArray[np.float64], str]], recalls: NDArray[np.float64]) -> str:
    """Precision over recall: (name, precision [R], class) a line; the classes are the page's, `c0` and so on."""
    drawn = []
    for i, (name, precision, style) in enumerate(lines):
        points = " ".join(_point(float(r), float(p)) for r, p in zip(recalls, precision, strict=True))
        drawn.append(f'<polyline class="{style}" points="{points}"/>')
        drawn.append(_key(i, name, style))
    return _axes("".join(drawn), "Precision over recall")


def scatter(points: Sequence[tuple[float, float, str]], whole: tuple[float, float]) -> str:
    """Precision over recall, a dot (recall, precision, name) a photo, a ring for `whole`, and lines of equal F."""
    drawn = []
    for f in (0.2, 0.4, 0.6, 0.8):
        recalls = np.linspace(f / (2 - f), 1, 50)
        line = " ".join(_point(float(r), float(f * r / (2 * r - f))) for r in recalls)
        drawn.append(f'<polyline class="iso" points="{line}"/>')
        x, y = _xy(1, f / (2 - f))
        drawn.append(f'<text class="tick" x="{x + 6:.1f}" y="{y + 4:.1f}">F {f:g}</text>')
    for *point, name in points:
        x, y = _xy(*point)
        drawn.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{html.escape(name)}</title></circle>')
    x, y = _xy(*whole)
    drawn.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="7"/>')
    for row, (style, radius, name) in enumerate((("dot", 3, "a photo"), ("ring", 7, "all photos"))):
        x, y = _LEFT + _SIDE + 60, _TOP + 12 + 22 * row
        drawn.append(f'<circle class="{style}" cx="{x}" cy="{y}" r="{radius}"/>')
        drawn.append(f'<text x="{x + 14}" y="{y + 4}">{name}</text>')
    return _axes("".join(drawn), "Boundary precision over recall")


def _xy(recall: float, precision: float) -> tuple[float, float]:
    return _LEFT + recall * _SIDE, _TOP + (1 - precision) * _SIDE


def _point(recall: float, precision: float) -> str:
    x, y = _xy(recall, precision)
    return f"{x:.1f},{y:.1f}"


def _key(row: int, name: str, style: str) -> str:
    x, y = _LEFT + _SIDE + 14, _TOP + 12 + 20 * row
    line = f'<line class="{style}" x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}"/>'
    return line + f'<text x="{x + 30}" y="{y + 4}">{html.escape(name)}</text>'


def _axes(content: str, title: str) -> str:
    """The square from (0, 0) to (1, 1) with ticks, around `content`."""
    parts = []
    for value in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = _xy(value, value)
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}v{_SIDE}M{_LEFT} {y:.1f}h{_SIDE}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_TOP + _SIDE + 16}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = _TOP + _SIDE / 2
    parts.append(f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 36}" text-anchor="middle">recall</text>')
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">precision</text>')
    size = f"0 0 {_LEFT + _SIDE + _RIGHT} {_TOP + _SIDE + _BOTTOM}"
    return f'<svg class="plot" viewBox="{size}" role="img" aria-label="{title}">{"".join(parts)}{content}</svg>'
