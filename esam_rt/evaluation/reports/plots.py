"""Precision/recall plots as SVG, styled by the page that shows them.

The SVG is written by hand: matplotlib in an extra would leave reports without plots where the extra is missing, and
its files would not follow the page's light and dark colors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

_SIDE, _LEFT, _TOP, _BOTTOM, _RIGHT = 300, 46, 12, 44, 210  # pixels of the square, and the margins around it
_LINE = Markup('<polyline class="{}" points="{}"/>')
_CURVE_KEY = Markup('<line class="{}" x1="{}" y1="{y}" x2="{}" y2="{y}"/><text x="{}" y="{}">{}</text>')
_F_VALUE = Markup('<text class="tick" x="{:.1f}" y="{:.1f}">F {:g}</text>')
_DOT = Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
_RING = Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="7"/>')
_DOT_KEY = Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/><text x="{}" y="{}">{}</text>')
_TICKS = Markup(
    '<path class="grid" d="M{x:.1f} {top}v{side}M{left} {y:.1f}h{side}"/>'
    '<text class="tick" x="{x:.1f}" y="{below}" text-anchor="middle">{value:g}</text>'
    '<text class="tick" x="{beside}" y="{level:.1f}" text-anchor="end">{value:g}</text>'
)
_PLOT = Markup(
    '<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">{ticks}'
    '<text x="{center}" y="{below}" text-anchor="middle">recall</text>'
    '<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">precision</text>{content}</svg>'
)


def curves(lines: Sequence[tuple[str, NDArray[np.float64], str]], recalls: NDArray[np.float64]) -> Markup:
    """Return an SVG of precision over recall.

    Args:
        lines: Name, precision [R] and CSS class of each curve. The page defines the classes.
        recalls: Recalls [R], 0 to 1.
    """
    drawn = []
    for i, (name, precision, style) in enumerate(lines):
        x, y = _LEFT + _SIDE + 14, _TOP + 12 + 20 * i
        drawn.append(_LINE.format(style, _points(recalls, precision)))
        drawn.append(_CURVE_KEY.format(style, x, x + 22, x + 30, y + 4, name, y=y))
    return _axes(drawn, "Precision over recall")


def scatter(points: Sequence[tuple[float, float, str]], whole: tuple[float, float]) -> Markup:
    """Return an SVG of precision over recall with one dot for each photo and lines of equal F.

    Args:
        points: Recall, precision and name of each photo.
        whole: Recall and precision of all photos together, drawn as a ring.
    """
    drawn = []
    for f in (0.2, 0.4, 0.6, 0.8):
        recalls = np.linspace(f / (2 - f), 1, 50)
        drawn.append(_LINE.format("iso", _points(recalls, f * recalls / (2 * recalls - f))))
        x, y = _xy(1, f / (2 - f))
        drawn.append(_F_VALUE.format(x + 6, y + 4, f))
    drawn += [_DOT.format(*_xy(recall, precision), name) for recall, precision, name in points]
    drawn.append(_RING.format(*_xy(*whole)))
    for row, (style, radius, name) in enumerate((("dot", 3, "one photo"), ("ring", 7, "all photos"))):
        x, y = _LEFT + _SIDE + 60, _TOP + 12 + 22 * row
        drawn.append(_DOT_KEY.format(style, x, y, radius, x + 14, y + 4, name))
    return _axes(drawn, "Boundary precision over recall")


def _xy(recall: float, precision: float) -> tuple[float, float]:
    return _LEFT + recall * _SIDE, _TOP + (1 - precision) * _SIDE


def _points(recalls: NDArray[np.float64], precision: NDArray[np.float64]) -> str:
    places = (_xy(float(r), float(p)) for r, p in zip(recalls, precision, strict=True))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _axes(content: Sequence[Markup], title: str) -> Markup:
    """The square from (0, 0) to (1, 1) with ticks, around ``content``."""
    ticks = []
    for value in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = _xy(value, value)
        places = {"below": _TOP + _SIDE + 16, "beside": _LEFT - 7, "level": y + 4}
        ticks.append(_TICKS.format(x=x, y=y, top=_TOP, left=_LEFT, side=_SIDE, value=value, **places))
    return _PLOT.format(
        width=_LEFT + _SIDE + _RIGHT,
        height=_TOP + _SIDE + _BOTTOM,
        title=title,
        ticks=Markup("").join(ticks),
        center=_LEFT + _SIDE / 2,
        below=_TOP + _SIDE + 36,
        middle=_TOP + _SIDE / 2,
        content=Markup("").join(content),
    )
