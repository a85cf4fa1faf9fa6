"""Load: threads that share a segmenter, segmenters opened and closed, and thousands of photos."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_rt import EntitySegmenter, ExecutionConfig, Settings
from esam_rt.run import RunOptions, run_photos
from esam_rt.storage.jsonl import read_lines
from tests.support.fake_segmenter import FakeSegmenter
from tests.support.trials import scaled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resources are counted in /proc")
Record = Callable[[str, object], None]
MOST_GROWTH_MB = 100


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def photo(seed: int) -> np.ndarray:
    """Four rectangles of colors and a little noise."""
    random = np.random.default_rng(seed)
    image = np.kron(random.integers(0, 200, (2, 2, 3)), np.ones((32, 40, 1)))
    return (image + random.integers(0, 40, image.shape)).astype(np.uint8)


def opened() -> EntitySegmenter:
    settings = Settings.preset("fast").with_overrides({"prompts.coarse_side": 6, "prompts.fine_side": 12})
    return EntitySegmenter("tiny", settings=settings, execution=ExecutionConfig(threads=1))


def test_threads_that_share_a_segmenter_get_the_same_answers(record_property: Record) -> None:
    photos = [photo(seed) for seed in range(4)]
    with opened() as segment:
        expected = [segment(image).labels for image in photos]
        threads, calls = 4, scaled(8)
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda i: segment(photos[i % len(photos)]).labels, range(calls)))
    equal = sum(np.array_equal(labels, expected[i % len(photos)]) for i, labels in enumerate(found))
    for name, value in (("threads", threads), ("calls", calls), ("equal", equal)):
        record_property(name, value)
    assert equal == calls


def test_segmenters_that_are_opened_and_closed_leave_nothing(record_property: Record) -> None:
    cycles = scaled(6)
    before: tuple[int, int, float] = (0, 0, 0)
    answers = []
    for cycle in range(-2, cycles):
        if cycle == 0:  # the first ones load libraries and start the threads of pools that stay
            before = open_files(), threading.active_count(), resident_mb()
        with opened() as segment:
            answers.append(segment(photo(0)).labels)
    growth_mb = resident_mb() - before[2]
    record_property("cycles", cycles)
    record_property("growth_mb", round(growth_mb))
    assert (open_files(), threading.active_count()) == before[:2]
    assert growth_mb < MOST_GROWTH_MB
    assert all(np.array_equal(labels, answers[0]) for labels in answers)


class Sampler:
    """Listener that samples resources after each photo."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int, float]] = []

    def begun(self, total: int, done: int) -> None:
        pass

    def photo_begun(self, name: str) -> None:
        pass

    def photo_done(self) -> None:
        if len(self.samples) % 100 == 0:
            self.sample = open_files(), threading.active_count(), resident_mb()
        self.samples.append(self.sample)

    def photo_failed(self, message: str) -> None:
        raise AssertionError(message)


def test_thousands_of_small_photos(tmp_path: Path, record_property: Record) -> None:
    """Files, threads and memory stay as they are after the first quarter."""
    count = scaled(2000)
    (tmp_path / "photos").mkdir()
    for i in range(count):
        Image.new("RGB", (16, 12), (i % 256, i // 256, 99)).save(tmp_path / "photos" / f"{i}.bmp")
    sampler = Sampler()
    options = RunOptions(sources=[tmp_path / "photos"], out=tmp_path / "out", write=("labels",))
    summary = run_photos(options, sampler, FakeSegmenter().open)
    assert (summary.done, summary.failed) == (count, 0)
    assert len(list((tmp_path / "out" / "labels").iterdir())) == count
    assert len(list(read_lines(tmp_path / "out" / "photos.jsonl"))) == count
    quarter, last = sampler.samples[count // 4], sampler.samples[-1]
    record_property("photos", count)
    record_property("growth_mb", round(last[2] - quarter[2]))
    assert last[0] <= quarter[0] + 2 and last[1] <= quarter[1] + 2
    assert last[2] - quarter[2] < MOST_GROWTH_MB
