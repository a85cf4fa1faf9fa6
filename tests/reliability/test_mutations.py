"""Thousands of changed photos, checkpoints and graphs: each is read, or refused with one error of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.support.trials import run_trials, scaled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read from /proc")

SUBJECT = """
import os
from tests.support.trials import Limits
LIMITS = Limits(cpu_s=0.5, growth_mb=50, address_space_mb=8192)
def prepare(folder):
    pass
def trial(random, folder):
    kind = random.randrange(6)
    if kind == 1:
        raise KeyError("not ours")
    if kind == 2:
        os.abort()
    while kind == 3:
        pass
    if kind == 4:
        b"1" * (60 << 20)
    if kind == 5:
        print("a library may print")
    return "read"
"""


@pytest.mark.parametrize(("subject", "count"), [("photos", 10_000), ("checkpoints", 2_000), ("graphs", 1_000)])
def test_a_changed_file_is_read_or_refused(
    subject: str, count: int, record_property: Callable[[str, object], None]
) -> None:
    report = run_trials(f"tests.support.hostile_{subject}", scaled(count))
    for name, value in report.figures().items():
        record_property(name, value)
    assert not report.broken, "\n".join(report.broken[:20])


def test_a_broken_promise_names_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "subject_of_test.py").write_text(SUBJECT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seeds = range(20)
    kinds = [Random(seed).randrange(6) for seed in seeds]
    assert {*kinds} == {*range(6)}
    report = run_trials("subject_of_test", len(seeds))
    expected = [
        (seed, {1: "KeyError", 2: "SIGABRT", 3: "SIGPROF", 4: "MB, more than 50"}[kind])
        for seed, kind in zip(seeds, kinds, strict=True)
        if kind in (1, 2, 3, 4)
    ]
    assert len(report.broken) == len(expected)
    for line, (seed, words) in zip(report.broken, expected, strict=True):
        assert line.startswith(f"seed {seed}: ") and words in line
        assert line.endswith(f"again: python -m tests.support.trials subject_of_test {seed} 1")
    assert report.outcomes == {"read": len(seeds) - len(expected)}
