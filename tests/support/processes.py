"""Waits of tests: for events, with a guard against hangs. No process outlives its test."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GUARD_S = 900  # a guard against hangs on a machine that other work keeps busy; no test needs so long
HELPERS = (b"resource_tracker", b"forkserver")  # of multiprocessing: they serve the whole process


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until the condition holds. It fails if the process ends before that."""
    deadline, pause_s = time.monotonic() + GUARD_S, 0.01
    while not condition():
        has_ended = process is not None and process.poll() is not None
        if has_ended and not condition():
            raise AssertionError(f"the process ended with {process and process.returncode} before the event")
        assert time.monotonic() < deadline, f"no event within {GUARD_S} s"
        time.sleep(pause_s)
        pause_s = min(1.05 * pause_s, 0.1)  # the condition may cost: a search of all processes took 16 s of CPU time


def children(pid: int | str = "self") -> set[int]:
    """Processes that a process has started and that are not reaped yet; empty without /proc."""
    found: set[int] = set()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def kill_children(before: set[int]) -> set[int]:
    """Kill the children that this process had not `before`, with theirs. Return those that were still running."""
    left = {pid for pid in children() - before if _runs(pid)}
    for pid in left:
        _kill_tree(pid)
    return left


def _runs(pid: int) -> bool:
    with suppress(OSError):
        is_dead = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not is_dead and not any(name in Path(f"/proc/{pid}/cmdline").read_bytes() for name in HELPERS)
    return False


def _kill_tree(pid: int) -> None:
    below = children(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    for child in below:
        _kill_tree(child)
