"""A plot of scores with their intervals as SVG, one line for each row.

The SVG is written by hand, like the plots of ``plots.py`` and for the same reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from esam_rt.evaluation.metrics.bootstrap import Estimate

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _GAP = 720, 190, 70, 46, 24, 12  # pixels
_STYLE = Markup(
    "text{font:13px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:15px}"
    ".tick{fill:#667;font-size:11px}.grid{stroke:#e3e6ea}.range{stroke:#7aa6d8;stroke-width:4;stroke-linecap:round}.value{fill:#1f5fa8}"
)
_PAGE = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}">'
    '<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
    '<text class="title" x="12" y="22">{title}</text>{content}'
    '<text class="tick" x="{middle}" y="{legend:.1f}" text-anchor="middle">{metric}, 95 % interval</text></svg>\n'
)
_NAME = Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>')
_RANGE = Markup('<line class="range" x1="{:.1f}" x2="{:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
_DOT = Markup('<circle class="value" cx="{:.1f}" cy="{:.1f}" r="5"/>')
_VALUE = Markup('<text x="{}" y="{:.1f}">{}</text>')
_GRID = Markup('<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{}" y2="{:.1f}"/>')
_TICK = Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{:g}</text>')


def interval_plot(title: str, metric: str, rows: Sequence[tuple[str, str, Estimate]]) -> str:
    """Return an SVG document with one line for each row.

    Args:
        title: Heading.
        metric: Name of the score, for the legend.
        rows: Name, group and score of each row. A gap separates groups. A row without a score has no dot.
    """
    ends = [v for _, _, e in rows for v in (e.low, e.value, e.high) if v is not None]
    low, high, step = _axis(min(ends, default=0.0), max(ends, default=1.0))

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    lines, y, before = [], float(_TOP), rows[0][1] if rows else ""
    for name, group, e in rows:
        y += _GAP if group != before else 0
        before = group
        lines.append(_NAME.format(_LEFT - 12, y + 4.5, name))
        if e.low is not None and e.high is not None:
            lines.append(_RANGE.format(x(e.low), x(e.high), y=y))
        if e.value is not None:
            text = f"{e.value:.1f}" if step >= 0.5 else f"{e.value:.3f}"
            lines += [_DOT.format(x(e.value), y), _VALUE.format(_WIDTH - _RIGHT + 14, y + 4.5, text)]
        y += _ROW
    bottom = y - _ROW / 2
    grid = []
    for i in range(round((high - low) / step) + 1):
        at = low + i * step
        grid += [_GRID.format(_TOP - 14, bottom, x=x(at)), _TICK.format(x(at), bottom + 16, round(at, 6))]
    return _PAGE.format(
        width=_WIDTH,
        height=bottom + 44,
        style=_STYLE,
        title=title,
        content=Markup("").join([*grid, *lines]),
        middle=(_LEFT + _WIDTH - _RIGHT) / 2,
        legend=bottom + 34,
        metric=metric,
    )


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """Round both ends outward. Returns the ends and the distance between ticks, five to ten ticks in all."""
    span = high - low
    if span < 1e-6:
        return low - 0.5, high + 0.5, 0.2
    power = 10 ** math.floor(math.log10(span))
    step = next(power * f for f in (0.1, 0.2, 0.5, 1, 2) if span / (power * f) <= 8)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step
