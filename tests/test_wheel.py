"""What is built from this repository: the two folders at the top become sub-packages, as real files."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from esam_rt import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = {"esam_rt": ROOT / "esam_rt", "esam_rt/export": ROOT / "export", "esam_rt/engines": ROOT / "engines"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an sdist and the wheel made of that sdist; needs no network."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def sources(folder: Path) -> set[str]:
    """Files of a package as they stand in the repository, its links and what Python left there apart."""
    found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    links = tuple(p for p in folder.iterdir() if p.is_symlink())
    return {p.relative_to(folder).as_posix() for p in found if not any(p.is_relative_to(link) for link in links)}


def test_wheel_has_every_file_of_the_package_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        assert not [i.filename for i in z.infolist() if i.external_attr >> 28 == 0o12]  # no links
    assert len(names) == len(set(names))
    expected = {f"{package}/{name}" for package, folder in PACKAGES.items() for name in sources(folder)}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert {"esam_rt/export/__init__.py", "esam_rt/engines/engine.py", "esam_rt/py.typed"} <= expected


def test_wheel_carries_the_default_model(wheel: Path) -> None:
    weights = ROOT / "esam_rt" / "weights" / "tiny.safetensors"
    with zipfile.ZipFile(wheel) as z:
        assert z.read("esam_rt/weights/tiny.safetensors") == weights.read_bytes()


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        (info,) = {name.split("/")[0] for name in z.namelist() if ".dist-info/" in name}
        metadata = HeaderParser().parsestr(z.read(f"{info}/METADATA").decode())
        assert z.read(f"{info}/entry_points.txt").decode() == "[console_scripts]\nesam-rt = esam_rt.__main__:main\n"
        assert z.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    required = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert not [r for r in required if r.startswith(("torch", "onnxruntime"))]


def test_wheel_runs_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path / "site")
    script = """
import sys
sys.path.insert(0, sys.argv[1])
import esam_rt.cli.app, esam_rt.loading.doctor, esam_rt.engines.engine, esam_rt.export
assert all(m.__file__.startswith(sys.argv[1]) for n, m in sys.modules.items() if n.startswith("esam_rt")), sys.modules
"""
    command = [sys.executable, "-P", "-c", script, str(tmp_path / "site")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr


def test_editable_install_copies_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel:editable", "-d", str(tmp_path)]
    subprocess.run(command, capture_output=True, cwd=ROOT, check=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as z:
        assert [name for name in z.namelist() if ".dist-info/" not in name and not name.endswith(".pth")] == []
        (pth,) = (name for name in z.namelist() if name.endswith(".pth"))
        assert Path(z.read(pth).decode().strip()) == ROOT


def test_sdist_has_what_the_build_and_the_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as t:
        members = t.getmembers()
    names = {m.name.partition("/")[2] for m in members}
    assert {"export/__init__.py", "engines/engine.py", "esam_rt/py.typed", "tests/test_wheel.py", "LICENSE"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "demo-output", "dist"))]
