"""The cache folder of users without a home folder, or with one that cannot be written."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from PIL import Image

from esam_rt.errors import OutputError
from esam_rt.storage import cache_dir
from esam_rt.storage.cache_dir import cache_folder

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other homes")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the system. The home is a file, so that root cannot write there either."""
    (tmp_path / "home").write_text("no folder")
    folder = tmp_path / "tmp"
    folder.mkdir()
    for name in ("ESAM_RT_CACHE", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    cache_dir._warn_once.cache_clear()
    cache_dir._another_folder.cache_clear()
    return folder


def private(temporary: Path) -> Path:
    return temporary / f"esam-rt-{os.geteuid()}"


def test_a_home_that_cannot_be_written(temporary: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "esam_rt"):
        assert {cache_folder() for _ in range(3)} == {private(temporary)}
    assert private(temporary).stat().st_mode & 0o777 == 0o700
    (record,) = caplog.records
    assert "home/.cache/esam-rt cannot be made; using" in record.getMessage()
    assert "Set ESAM_RT_CACHE" in record.getMessage()


@pytest.mark.parametrize("raises", [True, False])
def test_no_home(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, raises: bool
) -> None:
    def user_cache_dir(*arguments: object, **options: object) -> str:
        if raises:
            raise RuntimeError("could not determine the home directory")
        return "~/.cache/esam-rt"

    monkeypatch.setattr(platformdirs, "user_cache_dir", user_cache_dir)
    assert cache_folder() == private(temporary)
    assert "There is no home folder" in caplog.text


def test_a_home_that_can_be_written(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    assert cache_folder() == Path(platformdirs.user_cache_dir("esam-rt", appauthor=False))
    assert cache_folder().is_relative_to(tmp_path / "new")
    assert caplog.text == "" and list(temporary.iterdir()) == []


def test_a_full_cache_that_cannot_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    cache_folder().mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)
    assert cache_folder().is_relative_to(tmp_path / "new")


@pytest.mark.parametrize("kind", ["file", "link", "open to others"])
def test_a_temporary_folder_of_somebody_else_is_not_used(temporary: Path, tmp_path: Path, kind: str) -> None:
    place = private(temporary)
    if kind == "file":
        place.write_text("")
    elif kind == "link":
        place.symlink_to(tmp_path)
    else:
        place.mkdir(mode=0o755)
    folder = cache_folder()
    assert folder != place
    assert folder.parent == temporary and folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder


def test_no_temporary_folder_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def gettempdir() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    with pytest.raises(OutputError, match=r"no temporary folder .*Set ESAM_RT_CACHE"):
        cache_folder()


def test_a_run_without_a_home(temporary: Path, tmp_path: Path) -> None:
    """The graphs and the kernels lie in the private folder, where the next process finds them."""
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "1.png")
    command = [sys.executable, "-m", "esam_rt", "run", str(tmp_path / "1.png"), "--out", str(tmp_path / "out")]
    command += ["--method", "superpixels", "--write", "labels", "--overwrite", "--json"]
    times = []
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("warning: "), done.stderr
        assert json.loads(done.stdout)["done"] == 1
        files = [*private(temporary).rglob("*.onnx"), *private(temporary).rglob("*.kernel")]
        times.append({file: file.stat().st_mtime_ns for file in files})
    assert len(list(private(temporary).rglob("*.onnx"))) == 4 and len(times[0]) > 4
    assert times[0] == times[1]
    assert [path.name for path in temporary.iterdir()] == [private(temporary).name]
