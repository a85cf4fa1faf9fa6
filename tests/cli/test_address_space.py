"""Within a limit of address space (ulimit -v) the end of memory is one line and exit code 4, not an abort."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_app import FAKE_RUN, ROOT, start, wait_for
from tests.support.processes import GUARD_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold the limit")
LARGE = 1 << 40  # bytes: a limit that is never reached
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({LARGE}, {LARGE}))\n"
HEAD, TAIL = FAKE_RUN.split("think = ")
TAIL = TAIL.partition("\n")[2]


def failing(at: str) -> str:
    """A run that does this at its third photo."""
    return f"{LIMITED}{HEAD}import os\ndef think(number):\n    if number == 2: {at}\n{TAIL}"


@pytest.mark.parametrize("megabytes", [250, 450, 650])
def test_too_little_for_the_libraries(photos: Path, tmp_path: Path, megabytes: int) -> None:
    """The libraries do not load, OpenBLAS sends Ctrl-C to its own process, or llvmlite says that a file is missing."""
    command = ["sh", "-c", f'ulimit -v {megabytes}000; exec "$@"', "sh", sys.executable, "-m", "esam_rt"]
    command += ["run", str(photos), "--out", str(tmp_path / "out")]
    threads = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # few need less
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=threads, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: out of memory: the address space is limited to "), done.stderr
    assert done.stderr.count("\n") == 1 and "ulimit -v" in done.stderr


@pytest.mark.parametrize(
    "fault",
    [
        "os.write(2, b'LLVM ERROR: out of memory'); os.abort()",
        "os.kill(os.getpid(), 11)",
        "raise MemoryError",
        'raise RuntimeError("can\'t start new thread")',
    ],
)
def test_libraries_that_abort(photos: Path, tmp_path: Path, fault: str) -> None:
    process = start(failing(fault), "0", "run", photos, "--out", tmp_path / "out")
    _, stderr = process.communicate(timeout=GUARD_S)
    assert process.returncode == 4, stderr
    assert stderr.startswith("error: ") and "out of memory" in stderr and stderr.count("\n") == 1
    assert json.loads((tmp_path / "out" / "photos.jsonl").read_text().splitlines()[0])["name"] == "1.png"


def test_a_defect_is_no_lack_of_memory(photos: Path, tmp_path: Path) -> None:
    process = start(failing("raise RuntimeError('a defect')"), "0", "run", photos, "--out", tmp_path / "out")
    _, stderr = process.communicate(timeout=GUARD_S)
    assert process.returncode == 1 and stderr.endswith("RuntimeError: a defect\n")


def test_enough_memory(photos: Path, tmp_path: Path) -> None:
    script = failing("os.write(2, b'[W] from a library\\n')")
    process = start(script, "0", "run", photos, "--out", tmp_path / "out")
    stdout, stderr = process.communicate(timeout=GUARD_S)
    assert (process.returncode, stderr) == (0, "[W] from a library\n")
    assert "3 photos segmented" in stdout


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_run(photos: Path, tmp_path: Path, sent: int) -> None:
    out = tmp_path / "out"
    process = start(LIMITED + FAKE_RUN, "600", "run", photos, "--out", out)
    journal = out / "photos.jsonl"
    wait_for(lambda: (journal.exists() and journal.read_bytes().endswith(b"\n")) or process.poll() is not None)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=GUARD_S)
    assert (process.returncode, stderr) == (130, "error: interrupted\n")
    assert "1 photo segmented" in stdout
    assert json.loads((out / "run.json").read_text())["summary"]["exit_code"] == 130


def test_a_killed_command_leaves_no_run_behind(photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "pid"
    script = failing(f"open({str(place)!r}, 'w').write(f'{{os.getpid()}}.'); time.sleep(600)")
    process = start(script, "0", "run", photos, "--out", tmp_path / "out")
    wait_for(lambda: (place.exists() and place.read_text().endswith(".")) or process.poll() is not None)
    child = int(place.read_text()[:-1])
    assert child != process.pid
    process.kill()
    wait_for(lambda: not is_running(child))
    process.communicate(timeout=GUARD_S)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
