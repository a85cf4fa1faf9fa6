"""Scores as text."""

from __future__ import annotations

from esam_rt.evaluation.metrics.bootstrap import Estimate


def format_score(metric: str, value: float | None) -> str:
    """Return a score as text: percentages with two digits, other scores with three, a dash for None.

    Args:
        metric: Name of the metric.
        value: The score.
    """
    if value is None:
        return "–"
    digits = 2 if metric.startswith(("AP", "AR", "covered")) else 3
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0


def format_interval(metric: str, e: Estimate) -> str:
    """Return the confidence interval as text; empty if there is none.

    Args:
        metric: Name of the metric.
        e: The score with its interval.
    """
    return f"{format_score(metric, e.low)} to {format_score(metric, e.high)}" if e.low is not None else ""


def format_difference(metric: str, e: Estimate) -> str:
    """Return a difference of scores as text, with its sign.

    Args:
        metric: Name of the metric.
        e: The difference with its interval.
    """
    text = format_score(metric, e.value)
    return text if e.value is None or e.value <= 0 or not float(text) else f"+{text}"
