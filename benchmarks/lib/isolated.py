"""Measurements in processes of their own: one that fails, hangs or dies costs its own figures, no others."""

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

LEAST_S = 60  # left, to begin another row with


def measured(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """What a command writes as JSON to the file that is its last argument: `figures`, or `error` and why; `took_s`.
    Figures that are whole count however the process ends, since libraries of GPUs may crash or hang at its exit;
    `ended` says how if not well."""
    start = time.monotonic()
    with TemporaryDirectory() as name:
        out, errors = Path(name) / "figures.json", Path(name) / "stderr"
        # Into a file: of a pipe the end comes only when all that the process began have closed it.
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
                os.killpg(process.pid, signal.SIGKILL)  # with all that it has begun, which would hold the GPU
            process.wait()
        entry = _entry(out, end)
    return {**entry, "took_s": round(time.monotonic() - start, 1)}


def measure_all(
    commands: Mapping[str, Sequence[str]],
    results: dict[str, Any],
    deadline: float,
    row_limit_s: float,
    tell: Callable[[str, Mapping[str, Any]], None],
) -> list[str]:
    """Measure every row that `results` has no figures of, those that failed before after all others, until
    `time.monotonic()` is `deadline`; returns the names of those that were not begun, or not given their time. tell:
    called after each, when `results` has it."""
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
        tell(name, entry)
    return left


def _entry(out: Path, end: str) -> dict[str, Any]:
    """Figures of a process that has ended, or why there are none. end: how it ended; empty where well."""
    try:
        figures = json.loads(out.read_text())
    except (OSError, ValueError):
        return {"error": end or "exit code 0: without figures"}
    return {"figures": figures, **({"ended": end} if end else {})}


def _last_words(words: str, exit_code: int) -> str:
    """How a process ended; empty where well."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"exit code {exit_code}: {lines[-1] if lines else 'without a word'}"[:400] if exit_code else ""
