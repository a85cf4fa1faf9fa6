"""Errors of benchmarks: one sentence instead of a traceback, unless the code itself is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import no_such_package.part", "error: The package no_such_package is missing. Install it: pip install -e"),
        ("from esam_rt.errors import ModelError; raise ModelError('a.pth: broken.')", "error: a.pth: broken."),
        ("import esam_rt.no_such_module", "Traceback"),
        ("1 / 0", "Traceback"),
    ],
)
def test_an_error_is_one_sentence(code: str, expected: str) -> None:
    command = [sys.executable, "-c", f"import benchmarks\n{code}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(expected)
    assert len(done.stderr.splitlines()) == 1 or expected == "Traceback"
