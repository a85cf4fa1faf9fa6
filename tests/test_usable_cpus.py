"""CPUs of this process, from files as Linux writes them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from esam_rt import usable_cpus
from esam_rt.usable_cpus import cpu_quota


def tree(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    """Write control groups; the file ``self`` names those of the process."""
    for name, text in files.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "groups" / "self", root / "groups"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"self": "0::/\n", "cpu.max": "150000 100000\n"}, 1.5),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "200000 100000\n", "a/cpu.max": "400000 100000\n"}, 2),
        ({"self": "0::/a/b\n", "a/b/cpu.max": "800000 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ({"self": "0::/not/seen/inside\n", "cpu.max": "300000 100000\n"}, 3),
        ({"self": "0::/\n"}, math.inf),
        ({"self": "0::/\n", "cpu.max": "max 100000\n"}, math.inf),
        ({"self": "0::/\n", "cpu.max": "nonsense"}, math.inf),
        ({"self": "0::/\n", "cpu.max": "1 0"}, math.inf),
        ({"self": "4:cpu,cpuacct:/d\n", "cpu/d/cpu.cfs_quota_us": "250000", "cpu/d/cpu.cfs_period_us": "100000"}, 2.5),
        ({"self": "4:cpu:/d\n", "cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "30000"}, 3),
        ({"self": "4:cpu:/d\n", "cpu/d/cpu.cfs_quota_us": "-1", "cpu/d/cpu.cfs_period_us": "100000"}, math.inf),
        ({"self": "4:cpuset:/d\n", "cpu/d/cpu.cfs_quota_us": "1", "cpu/d/cpu.cfs_period_us": "1"}, math.inf),
        (
            {
                "self": "4:cpu,cpuacct:/d\n0::/\n",
                "cpu,cpuacct/d/cpu.cfs_quota_us": "100000",
                "cpu,cpuacct/d/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        ({"self": "1:name=systemd:/x\n0::/u\n", "unified/u/cpu.max": "700000 100000"}, 7),
        ({"self": "no control group\n\n"}, math.inf),
    ],
)
def test_the_quota_is_the_smallest_around_the_process(tmp_path: Path, files: dict[str, str], expected: float) -> None:
    assert cpu_quota(*tree(tmp_path, files)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "missing", tmp_path) == math.inf


@pytest.mark.parametrize(("affinity", "quota", "expected"), [(8, math.inf, 8), (8, 2.9, 2), (8, 0.3, 1), (1, 64, 1)])
def test_the_lower_limit_counts(monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(usable_cpus, "cpu_quota", lambda: quota)
    assert usable_cpus.usable_cpus() == expected


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(usable_cpus, "cpu_quota", lambda: math.inf)
    assert usable_cpus.usable_cpus() == 3
