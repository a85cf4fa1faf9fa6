"""How scores are written."""

from __future__ import annotations

from esam_rt.evaluation.metrics.bootstrap import Estimate


def shown(metric: str, value: float | None) -> str:
    """Percent with two digits, shares and bits with three; a dash for none."""
    if value is None:
        return "–"
    digits = 2 if metric.startswith(("AP", "AR", "covered")) else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no minus before a zero


def shown_range(metric: str, e: Estimate) -> str:
    """The interval, or nothing where there is none."""
    return f"{shown(metric, e.low)} to {shown(metric, e.high)}" if e.low is not None else ""


def shown_difference(metric: str, e: Estimate) -> str:
    """With its sign."""
    text = shown(metric, e.value)
    return text if e.value is None or e.value <= 0 or not float(text) else f"+{text}"
