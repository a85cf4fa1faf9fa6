"""Division that rounds up."""

from __future__ import annotations


def ceil_div(a: int, b: int) -> int:
    """Divide two whole numbers and round up.

    Args:
        a: Dividend, at least 0.
        b: Divisor, at least 1.
    """
    return -(-a // b)
