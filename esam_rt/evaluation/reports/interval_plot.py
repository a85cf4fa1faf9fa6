"""A plot of scores with their intervals, a line a row, as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from esam_rt.evaluation.metrics.bootstrap import Estimate

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _GAP = 720, 190, 70, 46, 24, 12  # pixels
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.title{font-weight:600;font-size:15px}"
    ".tick{fill:#667;font-size:11px}.grid{stroke:#e3e6ea}.range{stroke:#7aa6d8;stroke-width:4;stroke-linecap:round}.value{fill:#1f5fa8}"
)


def forest(title: str, metric: str, rows: Sequence[tuple[str, str, Estimate]]) -> str:
    """SVG of rows (name, group, score); a gap where the group changes. Rows without a score have no dot."""
    ends = [v for _, _, e in rows for v in (e.low, e.value, e.high) if v is not None]
    low, high, step = _nice(min(ends, default=0.0), max(ends, default=1.0))

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts, y, before = [], float(_TOP), rows[0][1] if rows else ""
    for name, group, e in rows:
        y += _GAP if group != before else 0
        before = group
        parts.append(f'<text x="{_LEFT - 12}" y="{y + 4.5:.1f}" text-anchor="end">{html.escape(name)}</text>')
        if e.low is not None and e.high is not None:
            parts.append(f'<line class="range" x1="{x(e.low):.1f}" x2="{x(e.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if e.value is not None:
            parts.append(f'<circle class="value" cx="{x(e.value):.1f}" cy="{y:.1f}" r="5"/>')
            text = f"{e.value:.1f}" if step >= 0.5 else f"{e.value:.3f}"
            parts.append(f'<text x="{_WIDTH - _RIGHT + 14}" y="{y + 4.5:.1f}">{text}</text>')
        y += _ROW
    bottom = y - _ROW / 2
    grid = []
    for i in range(round((high - low) / step) + 1):
        at = low + i * step
        grid.append(f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{_TOP - 14}" y2="{bottom:.1f}"/>')
        grid.append(
            f'<text class="tick" x="{x(at):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{round(at, 6):g}</text>'
        )
    height = bottom + 44
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}"><style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f'<text class="title" x="12" y="22">{html.escape(title)}</text>{"".join(grid)}{"".join(parts)}'
        f'<text class="tick" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{bottom + 34:.1f}" text-anchor="middle">'
        f"{html.escape(metric)}, 95 % interval</text></svg>\n"
    )


def _nice(low: float, high: float) -> tuple[float, float, float]:
    """Round ends around the values and the distance of the ticks between, five to ten of them."""
    span = high - low
    if span < 1e-6:
        return low - 0.5, high + 0.5, 0.2
    power = 10 ** math.floor(math.log10(span))
    step = next(power * f for f in (0.1, 0.2, 0.5, 1, 2) if span / (power * f) <= 8)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step
