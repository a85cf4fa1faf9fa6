"""Measure in separate processes: one that fails, hangs or crashes loses only its own figures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LEAST_S = 60  # start no row with less time left


def measured(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run a command that writes JSON to the file that is its last argument.

    Complete figures count even if the process fails afterwards, because GPU libraries may crash or hang at exit.

    Args:
        command: The command. The file's path is appended.
        limit_s: Kill the process after so many seconds.

    Returns:
        ``figures``, or ``error`` with the reason; ``took_s``; and ``ended`` if the process failed after its figures.
    """
    start = time.monotonic()
    with TemporaryDirectory() as name:
        out, errors = Path(name) / "figures.json", Path(name) / "stderr"
        # Not a pipe: it would stay open until every process that the command started has ended.
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, str(out)], stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
        try:
            code = process.wait(timeout=limit_s)
            end = _last_words(errors.read_text(errors="replace"), code)
        except subprocess.TimeoutExpired:
            end = f"took longer than {limit_s:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and its children, which would keep the GPU busy
            process.wait()
        entry = _entry(out, end)
    return {**entry, "took_s": round(time.monotonic() - start, 1)}


def measure_all(
    commands: Mapping[str, Sequence[str]],
    results: dict[str, Any],
    deadline: float,
    row_limit_s: float,
    on_progress: Callable[[str, Mapping[str, Any]], None],
) -> list[str]:
    """Measure every row that has no figures yet. Rows that failed before come last.

    Args:
        commands: The command of each row.
        results: The results by row. New ones are added.
        deadline: Value of ``time.monotonic()`` at which to stop.
        row_limit_s: Largest time of a row, seconds.
        on_progress: Called after each row, when its result has been added.

    Returns:
        The rows that were not started, or stopped by the deadline.
    """
    left = []
    wanted = [name for name in commands if "figures" not in results.get(name, {})]
    for name in sorted(wanted, key=results.__contains__):
        remaining = deadline - time.monotonic()
        if remaining < LEAST_S:
            left.append(name)
            continue
        entry = measured(commands[name], min(row_limit_s, remaining))
        if "error" in entry and remaining < row_limit_s and entry["took_s"] >= remaining - 1:
            left.append(name)
            continue
        results[name] = entry
        on_progress(name, entry)
    return left


def _entry(out: Path, end: str) -> dict[str, Any]:
    """Return the figures of a process, or the reason why they are missing. end: how it failed, or empty."""
    try:
        figures = json.loads(out.read_text())
    except (OSError, ValueError):
        return {"error": end or "exit code 0: no figures written"}
    return {"figures": figures, **({"ended": end} if end else {})}


def _last_words(words: str, exit_code: int) -> str:
    """Say how a process failed. Empty if it did not."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"exit code {exit_code}: {lines[-1] if lines else 'no message'}"[:400] if exit_code else ""
