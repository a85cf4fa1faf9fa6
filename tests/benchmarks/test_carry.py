"""Wheels cut in parts and put together again on another machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.lib import carry
from tests.support.processes import GUARD_S

ROOT = Path(__file__).parents[2]


def wheel(folder: Path, name: str, size: int) -> Path:
    """A package with one module that says its name, and so many bytes."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr(f"{name}.py", f"NAME = {name!r}\n")
        z.writestr(f"{name}.bin", os.urandom(size))
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: absent\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    for name, size in (("carried_one", 2500), ("carried_two", 100), ("carried_three", 0)):
        wheel(tmp_path / "wheels", name, size)
    return carry.cut(tmp_path / "wheels", tmp_path / "parts", 1000)


def test_every_folder_fits(parts: list[Path]) -> None:
    assert [folder.name for folder in parts] == [str(n) for n in range(1, len(parts) + 1)]
    assert len(parts) > 3
    for folder in parts:
        assert 0 < sum(p.stat().st_size for p in folder.iterdir() if p.name != carry.LIST) <= 1000


def test_they_are_the_same_again(parts: list[Path], tmp_path: Path) -> None:
    for folder in reversed(parts):
        carry.keep(folder, tmp_path / "store")
    joined = carry.join(tmp_path / "store")
    assert [p.name for p in joined] == sorted(p.name for p in (tmp_path / "wheels").iterdir())
    for path in joined:
        assert path.read_bytes() == (tmp_path / "wheels" / path.name).read_bytes()


def test_a_part_that_is_missing_or_damaged(parts: list[Path], tmp_path: Path) -> None:
    for folder in parts[1:]:
        carry.keep(folder, tmp_path / "store")
    with pytest.raises(SystemExit, match=r"carried_one-1\.0-py3-none-any\.whl\.0: missing or damaged"):
        carry.join(tmp_path / "store")
    carry.keep(parts[0], tmp_path / "store")
    (tmp_path / "store" / "carried_one-1.0-py3-none-any.whl.1").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"whl\.1: missing or damaged"):
        carry.join(tmp_path / "store")


def test_one_command_installs_and_runs(parts: list[Path], tmp_path: Path) -> None:
    for folder in parts:
        carry.keep(folder, tmp_path / "store")
    code = "import json, os, carried_one, carried_three as c; print(json.dumps([c.NAME, os.environ['PYTHONPATH']]))"
    command = [
        sys.executable,
        "-m",
        "benchmarks.lib.carry",
        "run",
        str(tmp_path / "store"),
        "-c",
        f"{code}; raise SystemExit(7)",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=GUARD_S)
    assert done.returncode == 7, done.stderr
    name, path = json.loads(done.stdout)
    assert (name, path.split(os.pathsep)[0]) == ("carried_three", str(tmp_path / "store" / "site"))


def test_a_second_call_installs_nothing(parts: list[Path], tmp_path: Path) -> None:
    for folder in parts:
        carry.keep(folder, tmp_path / "store")
    site = carry.installed(tmp_path / "store")
    assert {"carried_one.py", "carried_two.py", "carried_three.py"} <= {p.name for p in site.iterdir()}
    (site / "mark").touch()
    for part in (tmp_path / "store").glob("*.whl.*"):
        part.unlink()
    assert carry.installed(tmp_path / "store") == site  # without parts nothing could be joined
    assert (site / "mark").exists()


def test_other_wheels_are_installed_in_the_place_of_those_before(parts: list[Path], tmp_path: Path) -> None:
    for folder in parts:
        carry.keep(folder, tmp_path / "store")
    carry.installed(tmp_path / "store")
    wheel(tmp_path / "other", "carried_four", 10)
    (folder,) = carry.cut(tmp_path / "other", tmp_path / "other parts", 100_000)
    carry.keep(folder, tmp_path / "store")
    names = {p.stem for p in carry.installed(tmp_path / "store").glob("*.py")}
    assert names == {"carried_four"}


def test_an_installation_that_fails_is_made_again(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(wheels: list[Path], target: Path) -> None:
        target.mkdir()
        (target / "half.py").touch()
        raise subprocess.CalledProcessError(1, "pip")

    for folder in parts:
        carry.keep(folder, tmp_path / "store")
    with monkeypatch.context() as m:
        m.setattr(carry, "install", fail)
        with pytest.raises(subprocess.CalledProcessError):
            carry.installed(tmp_path / "store")
    names = {p.stem for p in carry.installed(tmp_path / "store").glob("*.py")}
    assert names == {"carried_one", "carried_two", "carried_three"}


def test_libraries_of_cuda_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    found = carry.environment(tmp_path)
    libraries = found["LD_LIBRARY_PATH"].split(os.pathsep)
    assert (libraries[0], libraries[-1]) == (str(tmp_path / "nvidia" / "cu13" / "lib"), "/opt/lib")
    assert found["PYTHONPATH"] == os.pathsep.join([str(tmp_path), "/mine"])
