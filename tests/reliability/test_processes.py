"""The waits of the tests themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import processes
from tests.support.processes import GUARD_S, children, kill_children, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_children_of_a_failed_test_are_killed_with_theirs() -> None:
    before = children()
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    grandchild = int(parent.stdout.readline())
    assert kill_children(before) == {parent.pid}
    assert parent.wait(GUARD_S) == -9
    wait_for(lambda: not processes._runs(grandchild))
    parent.communicate()
    assert kill_children(before) == set()


def test_an_event_that_a_dead_process_owes_is_not_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], text=True)
    with pytest.raises(AssertionError, match="the process ended with 3 before the event"):
        wait_for(lambda: False, process)
