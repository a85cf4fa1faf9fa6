"""The raster of a gigapixel, at a thousandth of its size: each square of the texture is found once."""

from __future__ import annotations

from benchmarks.gigapixel import run


def test_each_square_is_one_entity() -> None:
    found = run(1500, 1100, None)
    assert found["entities"] == found["expected"] == 10 * 7
    assert found["windows"] > 1 and found["joined"] > 0
