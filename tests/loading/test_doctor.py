"""What `esam-rt doctor` finds, and what it says to do."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from esam_rt import __version__
from esam_rt.cli import app
from esam_rt.kernels import warmup
from esam_rt.loading import doctor
from esam_rt.loading.doctor import Diagnosis, Finding, State
from esam_rt.sam.models import MODELS
from tests.kernels.kernel_modules import SOURCE, load_module


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without GPU, with a whole model and a cache of its own; the folder of its programs."""
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(b"weights")
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["tiny"], checkpoint=weights))
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    for name in doctor.TENSORRT:
        hide(monkeypatch, name)
    return programs


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`import name` fails as if it were not installed."""
    monkeypatch.setitem(sys.modules, name, None)


def install(monkeypatch: pytest.MonkeyPatch, name: str, version: str, **content: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(__version__=version, **content)
    monkeypatch.setitem(sys.modules, name, module)


def onnxruntime(monkeypatch: pytest.MonkeyPatch, providers: list[str], wheels: tuple[str, ...]) -> None:
    install(monkeypatch, "onnxruntime", "1.99", get_available_providers=lambda: providers, __file__="")
    monkeypatch.setattr(doctor, "_is_installed", lambda wheel: wheel in wheels)


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def finding(name: str, diagnosis: Diagnosis | None = None) -> Finding:
    (found,) = (f for f in (diagnosis or doctor.diagnose()).findings if f.name == name)
    return found


def test_a_machine_that_can_run(tmp_path: Path) -> None:
    diagnosis = doctor.diagnose()
    assert (diagnosis.exit_code, diagnosis.backends) == (0, ("onnxruntime",))
    assert not [f for f in diagnosis.findings if f.state is State.BAD]
    assert finding("esam-rt", diagnosis).found == __version__
    assert finding("model tiny", diagnosis).found.endswith(f"{hashlib.sha256(b'weights').hexdigest()[:12]}…")
    assert "CPU" in finding("onnxruntime", diagnosis).found
    assert str(tmp_path / "cache") in finding("cache", diagnosis).found
    assert not (tmp_path / "cache").exists()
    assert {"numpy", "numba", "opencv-python-headless", "scikit-image"} <= {f.name for f in diagnosis.findings}


def test_optional_packages_name_their_command() -> None:
    for extra in ("tensorrt", "tensorrt-rtx"):
        found = finding(extra)
        assert found == Finding(extra, State.ABSENT, found.found, f"pip install 'esam-rt[{extra}]'")
        assert found.found == "not installed"


@pytest.mark.parametrize("has_gpu", [True, False])
def test_tensorrt_that_is_there(monkeypatch: pytest.MonkeyPatch, machine: Path, has_gpu: bool) -> None:
    install(monkeypatch, "tensorrt", "11.4.0")
    install(monkeypatch, "cuda.bindings.runtime", "13.0")
    if has_gpu:
        program(machine, "nvidia-smi", "echo 'NVIDIA H100, 81559 MiB, 570.1, 9.0'")
    diagnosis = doctor.diagnose()
    assert finding("tensorrt", diagnosis) == Finding("tensorrt", State.OK, "11.4.0")
    assert diagnosis.backends == (("onnxruntime", "tensorrt") if has_gpu else ("onnxruntime",))


def test_tensorrt_rtx_where_it_does_not_run(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    install(monkeypatch, "tensorrt_rtx", "1.7")
    install(monkeypatch, "cuda.bindings.runtime", "13.0")
    program(machine, "nvidia-smi", "echo 'NVIDIA B200, 183359 MiB, 580.1, 10.0'")
    diagnosis = doctor.diagnose()
    found = finding("tensorrt-rtx", diagnosis)
    assert (found.state, found.found) == (State.ABSENT, "does not run on sm_100")
    assert "--backend tensorrt, or --backend onnxruntime --device cuda" in found.remedy
    assert diagnosis.backends == ("onnxruntime",)
    program(machine, "nvidia-smi", "echo 'NVIDIA RTX 5090, 32607 MiB, 580.1, 12.0'")
    assert doctor.diagnose().backends == ("onnxruntime", "tensorrt-rtx")


def test_tensorrt_without_cuda_python_builds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt_rtx", "1.7")
    hide(monkeypatch, "cuda.bindings.runtime")
    found = finding("tensorrt-rtx")
    assert (found.state, found.remedy) == (State.ABSENT, "pip install 'esam-rt[tensorrt-rtx]'")
    assert found.found == "1.7, builds engines; to run them cuda-python is not installed"


@pytest.mark.parametrize(("module", "name"), [("onnxruntime", "onnxruntime"), ("cv2", "opencv-python-headless")])
def test_missing_package_is_3_and_names_its_command(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    hide(monkeypatch, module)
    diagnosis = doctor.diagnose()
    assert (diagnosis.exit_code, diagnosis.backends) == (3, ())
    assert finding(name, diagnosis).state is State.BAD
    assert "pip install" in finding(name, diagnosis).remedy


def test_package_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: no such file')")
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert finding("opencv-python-headless").found == "does not load: libGL.so.1: no such file"


def test_missing_model_is_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").unlink()
    diagnosis = doctor.diagnose()
    assert diagnosis.exit_code == 3
    assert finding("model tiny", diagnosis).state is State.BAD
    assert "tiny.safetensors" in finding("model tiny", diagnosis).found


def test_gpu_is_listed_and_wants_the_gpu_wheel(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    program(machine, "nvidia-smi", "echo 'NVIDIA H200, 143771 MiB, 580.1'; echo 'NVIDIA A40, 46068 MiB, 580.1'")
    onnxruntime(monkeypatch, ["CPUExecutionProvider"], ("onnxruntime",))
    assert finding("gpu").found == "NVIDIA H200, 143771 MiB, 580.1; NVIDIA A40, 46068 MiB, 580.1"
    assert finding("onnxruntime").remedy == "pip uninstall -y onnxruntime && pip install 'esam-rt[gpu]'"
    onnxruntime(monkeypatch, ["CUDAExecutionProvider", "CPUExecutionProvider"], ("onnxruntime-gpu",))
    assert finding("onnxruntime") == Finding("onnxruntime", State.OK, "1.99, providers CUDA, CPU, telemetry off")


def test_gpu_whose_driver_fails(machine: Path) -> None:
    program(machine, "nvidia-smi", "exit 9")
    assert finding("gpu").state is State.ABSENT
    assert "driver" in finding("gpu").remedy


def test_both_onnxruntime_wheels_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime(monkeypatch, ["CPUExecutionProvider"], ("onnxruntime", "onnxruntime-gpu"))
    assert finding("onnxruntime").remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu && ")


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "file" / "cache"))
    assert finding("cache").state is State.BAD
    assert "ESAM_RT_CACHE" in finding("cache").remedy


@pytest.mark.parametrize(("compiled", "state"), [(3, State.OK), (2, State.BAD), (0, State.BAD)])
def test_cache_that_is_read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiled: int, state: State) -> None:
    """It is in order if no run has to compile."""
    module = load_module(tmp_path / "mine.py", SOURCE, monkeypatch)
    kernels = [module.half, module.half_and_one, module.doubled]
    for kernel in kernels[:compiled]:
        kernel.compile()
    (tmp_path / "cache").mkdir(exist_ok=True)
    monkeypatch.setattr(warmup, "entry_kernels", lambda modules: kernels)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    found = finding("cache")
    assert found.state is state
    count = "its 3" if compiled == 3 else f"{compiled} of 3"
    assert found.found.startswith(f"{tmp_path / 'cache'}, read-only; {count} compiled kernels are used")
    assert bool(found.remedy) is (state is State.BAD)


def test_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app.app, ["doctor"])
    assert result.exit_code == 0
    assert "can run on: onnxruntime" in result.stdout
    assert "to add tensorrt: pip install 'esam-rt[tensorrt]'\n" in result.stdout
    hide(monkeypatch, "onnxruntime")
    result = CliRunner().invoke(app.app, ["doctor", "--json"])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["backends"] == []
