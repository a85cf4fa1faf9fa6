"""Frames at the pace of a camera, by a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from esam_rt.errors import SettingsError
from esam_rt.sources import Frame, Paced

FRAMES = [Frame(np.zeros((2, 2, 3), np.uint8), str(i)) for i in range(6)]


def test_each_frame_comes_at_its_time_and_late_ones_do_not_shift_the_others() -> None:
    now_s = 5.0

    def wait(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    def slow() -> Iterator[Frame]:
        nonlocal now_s
        for frame in FRAMES:
            now_s += 0.35 if frame.name == "2" else 0
            yield frame

    times = [(frame.name, round(now_s - 5, 6)) for frame in Paced(slow(), 10, lambda: now_s, wait)]
    assert times == [("0", 0), ("1", 0.1), ("2", 0.45), ("3", 0.45), ("4", 0.45), ("5", 0.5)]


def test_close_ends_the_wait() -> None:
    paced = Paced(FRAMES, 1e-6)
    frames = iter(paced)
    assert next(frames).name == "0"
    paced.close()
    assert next(frames, None) is None


@pytest.mark.parametrize("rate_hz", [0, -1, float("inf"), float("nan")])
def test_rates_out_of_range(rate_hz: float) -> None:
    with pytest.raises(SettingsError, match="expected a number above 0"):
        Paced(FRAMES, rate_hz)
