"""Modules with kernels of their own, for tests of how kernels are compiled and cached."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from esam_rt.kernels import jit
from tests.support.processes import GUARD_S

ROOT = Path(__file__).parents[2]
SOURCE = """
from numba import types
from esam_rt.kernels.jit import kernel

@kernel(types.int64)
def half(x):
    return x // 2

@kernel(types.int64)
def half_and_one(x):
    return half(x) + 1

@kernel(types.int64)
def doubled(x):
    return 2 * x
"""


def load_module(path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of that source, its kernels not compiled: what the next process sees. Its cache is beside it."""
    path.write_text(source)
    monkeypatch.setenv("ESAM_RT_CACHE", str(path.parent / "cache"))
    monkeypatch.setattr(jit.CONFIG, "CACHE_DIR", "")
    monkeypatch.setattr(jit, "KERNELS", [])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def start(code: str, cache: Path, *arguments: str, package: Path = ROOT) -> subprocess.Popen[str]:
    """A process that runs `code`, with the package in that folder and that cache."""
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment = clean | {"PYTHONPATH": str(package), "ESAM_RT_CACHE": str(cache)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cache.parent, env=environment
    )


def result(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed on stdout and on stderr; it must succeed."""
    out, err = process.communicate(timeout=GUARD_S)
    assert process.returncode == 0, (process.returncode, out, err)
    return out.strip(), err.strip()
