"""Runs that are killed, or meet a full disk or a limit. No file is half written, and a resume gives the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from tests.support.processes import GUARD_S
from tests.support.trials import ROOT, scaled

MEMORY = Path("/dev/shm")


@pytest.mark.skipif(sys.platform != "linux", reason="limits and signals of Linux")
@pytest.mark.parametrize(("kind", "count"), [("kill", 20), ("full", 10), ("size", 10)])
def test_a_run_that_failed_is_finished_by_resume(
    kind: str, count: int, record_property: Callable[[str, object], None]
) -> None:
    """The folders lie in memory: a machine that is busy syncs a disk slowly, and nothing is lost with this one."""
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(photos / f"{i}.png")
        arguments = [kind, str(photos), folder, "0", str(scaled(count))]
        command = [sys.executable, "-m", "tests.support.faulty_runs", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=GUARD_S, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name in ("folders", "failed_runs"):
        record_property(name, result[name])
    assert result["broken"] == []
    assert result["failed_runs"] > 0
