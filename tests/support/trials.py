"""Runs many trials in a process of its own with limits, and tells which seed broke a promise.

    python -m tests.support.trials tests.support.hostile_photos 1234 1      repeats one trial

A subject is a module with `LIMITS`, `prepare(folder)` and `trial(random, folder)`. `trial` returns the name of an
outcome that is allowed, and raises for all others.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
SILENCE_S = 300  # a worker that says nothing for so long hangs; a trial takes milliseconds
MB = 1 << 20
READY = b"ready"


@dataclass(frozen=True)
class Limits:
    """What one trial may take.

    Attributes:
        cpu_s: CPU time, in seconds.
        growth_mb: Peak of the resident set beyond that before the trial.
        address_space_mb: Hard limit of the process.
    """

    cpu_s: float
    growth_mb: int
    address_space_mb: int


@dataclass
class Report:
    """What happened.

    Attributes:
        outcomes: Number of trials by outcome.
        broken: One line for each trial that broke a promise, with its seed.
        ended: Number of workers that a trial ended, such as by a fault in native code.
        slowest_cpu_s: CPU time of the slowest trial.
        growth_mb: Largest growth of the resident set in one trial.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    ended: int = 0
    slowest_cpu_s: float = 0
    growth_mb: float = 0

    def figures(self) -> dict[str, float]:
        """Numbers for the table of docs/reliability.md."""
        return {
            "trials": sum(self.outcomes.values()) + len(self.broken),
            **{name: self.outcomes[name] for name in sorted(self.outcomes)},
            "slowest_cpu_ms": round(self.slowest_cpu_s * 1000),
            "growth_mb": round(self.growth_mb),
        }


def scaled(count: int) -> int:
    """Number of trials: the small form, times ESAM_RT_TRIALS."""
    return round(count * float(os.environ.get("ESAM_RT_TRIALS", "1")))


def run_trials(subject: str, count: int, first: int = 0) -> Report:
    """Run the trials of seeds `first` to `first + count - 1`. After a trial that ends its worker, a new one goes on."""
    report, seed = Report(), first
    while seed < first + count:
        seed = _run_worker(subject, seed, first + count - seed, report)
    return report


def _run_worker(subject: str, first: int, count: int, report: Report) -> int:
    """Add the results of one worker to the report. Return the seed that comes next."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "tests.support.trials"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [*command, subject, str(first), str(count), folder], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        ) as worker,
    ):
        seed = first
        try:
            assert worker.stdout is not None
            lines = _lines(worker.stdout.fileno())
            assert next(lines, b"") == READY, (Path(folder) / "said").read_text(errors="replace")[-2000:]
            for line in lines:
                result = json.loads(line)
                seed = result["seed"] + 1
                if result["broken"]:
                    report.broken.append(f"seed {result['seed']}: {result['broken']}; again: {_again(subject, result)}")
                else:
                    report.outcomes[result["outcome"]] += 1
                report.slowest_cpu_s = max(report.slowest_cpu_s, result["cpu_s"])
                report.growth_mb = max(report.growth_mb, result["growth_mb"])
        finally:
            worker.kill()
            status = worker.wait()
    if seed < first + count:
        report.ended += 1
        words = f"the worker ended with {signal.Signals(-status).name if status < 0 else status}"
        report.broken.append(f"seed {seed}: {words}; again: {_again(subject, {'seed': seed})}")
        seed += 1
    return seed


def _again(subject: str, result: dict[str, Any]) -> str:
    return f"python -m tests.support.trials {subject} {result['seed']} 1"


def _lines(descriptor: int) -> Any:
    """Yield the worker's lines until it ends or is silent for too long."""
    rest = b""
    while select.select([descriptor], [], [], SILENCE_S)[0]:
        data = os.read(descriptor, 1 << 16)
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if not data:
            return


def main() -> None:
    """Be a worker: one line of JSON on stdout for each trial."""
    subject = importlib.import_module(sys.argv[1])
    first, count = int(sys.argv[2]), int(sys.argv[3])
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(sys.argv[4] if len(sys.argv) > 4 else temporary)
        results, said = os.dup(1), folder / "said"
        for descriptor in (1, 2):  # libraries print; the command line silences them with --quiet
            os.dup2(os.open(said, os.O_CREAT | os.O_RDWR | os.O_APPEND), descriptor)
        subject.prepare(folder)
        space = subject.LIMITS.address_space_mb * MB
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.write(results, READY + b"\n")
        for seed in range(first, first + count):
            line = json.dumps({"seed": seed, **_one(subject, seed, folder)})
            os.write(results, f"{line}\n".encode())


def _one(subject: Any, seed: int, folder: Path) -> dict[str, Any]:
    outcome, broken = "", ""
    _reset_peak()
    before_mb, start = _peak_mb(), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 4 * subject.LIMITS.cpu_s)  # SIGPROF ends a trial that does not end by itself
    try:
        outcome = subject.trial(Random(seed), folder)
    except BaseException as e:
        broken = " ".join(traceback.format_exception_only(e)[-1].split())[:300]
        place = traceback.extract_tb(e.__traceback__)[-1]
        broken += f" at {Path(place.filename).name}:{place.lineno}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    cpu_s, growth_mb = time.process_time() - start, _peak_mb() - before_mb
    if not broken:
        passed = []
        if cpu_s > subject.LIMITS.cpu_s:
            passed.append(f"{cpu_s:.1f} s of CPU time, more than {subject.LIMITS.cpu_s}")
        if growth_mb > subject.LIMITS.growth_mb:
            passed.append(f"{growth_mb:.0f} MB, more than {subject.LIMITS.growth_mb}")
        broken = f"it took {' and '.join(passed)}" if passed else ""
    return {"outcome": outcome, "broken": broken, "cpu_s": cpu_s, "growth_mb": growth_mb}


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    with open("/proc/self/status", "rb") as f:  # noqa: PTH123 - 10,000 times
        return int(f.read().partition(b"VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
