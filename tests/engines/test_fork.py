"""A forked child that has its parent's sessions can end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import GUARD_S

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, sys
import numpy as np
from esam_rt.loading.loader import load_sam
sam = load_sam("tiny")
sam.encode(np.zeros((64, 64, 3), np.uint8))
child = os.fork()
if child == 0:
    sys.exit(7)  # frees all objects, unlike os._exit
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_ends() -> None:
    """ONNX Runtime waits for the threads of a session when it is freed, and the child has none."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, timeout=GUARD_S)
    assert done.returncode == 7, done.stderr
