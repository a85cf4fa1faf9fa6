"""What the benchmarks measure with: seconds of a call, memory of a process."""

from __future__ import annotations

import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def seconds(call: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def status_mb(key: str) -> float:
    """VmRSS, the resident set, or VmHWM, its peak; unlike ru_maxrss not that of the process which started this one."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(f"{key}:"))


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """The result of `function`, which a process of its own computes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def forget_peak() -> None:
    """Let VmHWM begin anew with what is in use now. Linux with glibc."""
    ctypes.CDLL(None).malloc_trim(0)  # or what earlier calls freed, and glibc kept, would be used unseen
    Path("/proc/self/clear_refs").write_text("5")


def peak_growth_mb(call: Callable[[], object]) -> float:
    """Growth of the resident set to its peak during one call, of code that has run before. Linux with glibc."""
    forget_peak()
    before = status_mb("VmRSS")
    call()
    return max(0.0, status_mb("VmHWM") - before)


def quartiles(values: list[float], digits: int = 4) -> dict[str, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
    return {"low": round(low, digits), "median": round(middle, digits), "high": round(high, digits)}
