"""The block of `esam-rt doctor --report`: what it tells about a machine, and that it names nobody."""

from __future__ import annotations

import getpass
import json
import platform
import resource
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esam_rt import __version__
from esam_rt.cli import app
from esam_rt.loading import bug_report
from esam_rt.loading.doctor import Diagnosis, Finding, State, cache_finding

CPUINFO = "processor\t: 0\nmodel name\t: Robot CPU 3000\nflags\t\t: fpu avx avx2 fma\n"
MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    4000000 kB\nSwapTotal:             0 kB\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user called ada on a machine called secret-host, with a cache in the home folder."""
    home = tmp_path / "people" / "ada"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ESAM_RT_CACHE", str(home / ".cache" / "esam-rt"))
    monkeypatch.setattr(getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(platform, "node", lambda: "secret-host")
    monkeypatch.setattr(platform, "platform", lambda: "Linux-6.1-secret-host-x86_64")
    return home


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def report(tmp_path: Path, *findings: Finding, proc: Mapping[str, str] | None = None) -> dict[str, str]:
    files = {"cpuinfo": CPUINFO, "meminfo": MEMINFO} | dict(proc or {})
    diagnosis = Diagnosis((*findings, cache_finding()), ("onnxruntime",))
    return bug_report.bug_report(diagnosis, write(tmp_path / "proc", files), tmp_path / "cgroups")


def test_it_tells_versions_machine_limits_and_cache(tmp_path: Path) -> None:
    found = report(tmp_path, Finding("onnxruntime", State.OK, "1.32, providers CPU, telemetry off"))
    assert found["esam-rt"].startswith(f"{__version__}, Python {platform.python_version()}, Linux-6.1")
    assert found["can run on"] == "onnxruntime"
    assert found["onnxruntime"] == "1.32, providers CPU, telemetry off"
    assert found["CPU"].startswith("Robot CPU 3000, ") and found["CPU"].endswith(" cores usable, avx avx2 fma")
    assert found["memory"] == "16.4 GB in all, 4.1 GB available, 0.0 GB swap"
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert f"NOFILE {files}" in found["limits"]
    assert found["cache"].startswith("~/.cache/esam-rt by ESAM_RT_CACHE, ") and found["cache"].endswith(" GB free")


def test_it_lists_what_pip_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["numpy>=1.26", "no-such-package>=1", "pytest>=8; extra == 'dev'"]
    monkeypatch.setattr(bug_report.metadata, "requires", lambda name: required)
    packages = report(tmp_path)["packages"].split(", ")
    assert packages[0].startswith("numpy ") and packages[1] == "no-such-package missing"
    assert not [p for p in packages if p.startswith("pytest")]


def test_it_names_nobody(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", f"{home}/numba")
    monkeypatch.setenv("LD_PRELOAD", "/opt/ada/hook.so")
    monkeypatch.setenv("ESAM_RT_TOKEN", "ada")
    bad = Finding("numba", State.BAD, f"does not load: {home}/lib/x.so: no /srv/clients/acme.so on secret-host, ada")
    found = report(tmp_path, bad)
    assert found["numba"] == "does not load: ~/lib/x.so: no (path) on (host), (user)"
    block = bug_report.as_block(found)
    assert not [name for name in ("ada", "secret-host", "acme", "hook.so", str(tmp_path)) if name in block]
    assert "NUMBA_CACHE_DIR=(path)" in found["environment"] and "LD_PRELOAD=(path)" in found["environment"]


def test_a_cache_outside_of_the_home_folder_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "acme"))
    assert report(tmp_path)["cache"].startswith("outside the home folder by ESAM_RT_CACHE, ")
    (tmp_path / "acme").touch()
    assert report(tmp_path)["cache"] == "outside the home folder by ESAM_RT_CACHE, cannot be written"


def test_a_line_of_a_report_stays_a_line_of_the_block(tmp_path: Path) -> None:
    found = report(tmp_path, Finding("gpu", State.ABSENT, "failed:\n```\n# a title"))
    lines = bug_report.as_block(found).splitlines()
    assert (lines[0], lines[-1]) == ("```text", "```")
    assert len(lines) == len(found) + 2
    assert not [line for line in lines[1:-1] if "```" in line]


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/\n", {}, "no limits"),
        (
            "0::/robot/app\n",
            {
                "robot/memory.max": str(512 << 20),
                "robot/app/memory.max": str(900 << 20),
                "robot/app/cpu.max": "150000 100000",
                "cpu.max": "max 100000",
                "robot/app/pids.max": "64",
            },
            "memory 512 MB, cpu 1.5 cores, pids 64",
        ),
        ("0::/../../elsewhere\n", {"memory.max": str(256 << 20)}, "memory 256 MB"),
        (
            "4:memory:/box\n2:cpu,cpuacct:/box\n1:name=systemd:/\n",
            {
                "memory/box/memory.limit_in_bytes": str(300 << 20),
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "cpu,cpuacct/box/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            "memory 300 MB, cpu 0.5 cores",
        ),
    ],
)
def test_the_strictest_limit_of_the_control_groups_counts(
    tmp_path: Path, group: str, files: dict[str, str], expected: str
) -> None:
    write(tmp_path / "cgroups", files)
    assert report(tmp_path, proc={"self/cgroup": group})["control group"] == expected


def test_a_system_without_these_files_has_a_report_too(tmp_path: Path) -> None:
    found = bug_report.bug_report(Diagnosis((), ()), tmp_path / "none", tmp_path / "none")
    assert found["can run on"] == "nothing"
    assert found["memory"] == "unknown"
    assert found["control group"] == "no limits"


def test_the_command_prints_one_block() -> None:
    result = CliRunner().invoke(app.app, ["doctor", "--report"])
    assert result.exit_code == 0
    assert result.stdout.startswith("```text\nesam-rt: ") and result.stdout.endswith("\n```\n")
    assert "telemetry off" in result.stdout and "ada" not in result.stdout
    as_json = CliRunner().invoke(app.app, ["doctor", "--report", "--json"])
    assert list(json.loads(as_json.stdout))[:2] == ["esam-rt", "can run on"]
