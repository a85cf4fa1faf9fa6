"""Measure the seconds of a call and the memory of a process."""

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
    """Return the wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def status_mb(key: str) -> float:
    """Return VmRSS (the resident set) or VmHWM (its peak) in MB. Unlike ru_maxrss, it excludes the parent process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(f"{key}:"))


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Compute the result of a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def forget_peak() -> None:
    """Reset VmHWM to the memory in use now. Needs Linux with glibc."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that glibc keeps after free() would be reused without a new peak
    Path("/proc/self/clear_refs").write_text("5")


def peak_growth_mb(call: Callable[[], object]) -> float:
    """Return the growth of the resident set, in MB, to its peak during one call. The code must have run before."""
    forget_peak()
    before = status_mb("VmRSS")
    call()
    return max(0.0, status_mb("VmHWM") - before)


def quartiles(values: list[float], digits: int = 4) -> dict[str, float]:
    """Return lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
    return {"low": round(low, digits), "median": round(middle, digits), "high": round(high, digits)}
