"""How many CPUs this process may use. The host may have many more."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROCESS_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return the number of CPUs in the affinity mask, or the CPU quota of the control groups if that is less.

    A quota is rounded down: a process with more threads than its quota is stopped for a part of each period.

    Returns:
        At least 1.
    """
    # os.process_cpu_count() is in Python 3.13, and it does not know quotas.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(cpus, cpu_quota())))


def cpu_quota(process_groups: Path = PROCESS_GROUPS, groups: Path = GROUPS) -> float:
    """Return the CPU quota of this process: the smallest of its control group and of all groups around it.

    Args:
        process_groups: File that names the control groups of the process.
        groups: Folder that mirrors the control groups.

    Returns:
        CPUs, such as 1.5. Infinity without a quota, and outside of Linux.
    """
    try:
        lines = process_groups.read_text().splitlines()
    except OSError:
        return math.inf
    quotas = [math.inf]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":  # version 2; some systems mount it beside version 1
            for mount in (groups, groups / "unified"):
                quotas += [_quota(folder / "cpu.max") for folder in _folders(mount, path)]
        elif "cpu" in controllers.split(","):
            for mount in (groups / "cpu", groups / controllers):
                quotas += [_quota_v1(folder) for folder in _folders(mount, path)]
    return min(quotas)


def _folders(mount: Path, path: str) -> Iterator[Path]:
    """The folder of a group and those of the groups around it. A container may see only the mount itself."""
    folder = mount / path.strip("/")
    yield folder
    while folder != mount and folder != folder.parent:
        folder = folder.parent
        yield folder


def _quota(file: Path) -> float:
    """Read ``cpu.max``: quota and period, in microseconds."""
    try:
        quota, period = file.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota_v1(folder: Path) -> float:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
