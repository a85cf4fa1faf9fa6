"""For all tests: no process outlives its test; a stand-in for CUDA and TensorRT, checked at the end of each."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.kernels import warmup
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import FakeTensorRT
from tests.support.processes import children, kill_children

# Threads of PyTorch that wait would keep the cores busy on which the other worker runs: a test took 22 s of CPU time
# instead of 1.5 s. OpenMP reads it when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A job in a shell's background begins with Ctrl-C ignored, one of nohup with SIGHUP, and so would all processes that
# tests start. A test that sends these signals would wait for its guard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test() -> Iterator[None]:
    """A wait that fails leaves its process behind. It would keep a core busy, or hold a lock."""
    before = children()
    yield
    kill_children(before)


@pytest.fixture(scope="session", autouse=True)
def _load_kernels() -> None:
    """A worker of pytest-xdist runs many tests. Loaded kernels are not compiled for the cache of each test."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        warmup.compile_all()


@pytest.fixture(scope="session")
def copy_kernels() -> Callable[[Path], list[Path]]:
    """A function that copies the code of all kernels to a cache of a test. To compile them takes 12 s."""
    folder = warmup.compile_all().folder
    found = [kernel.cache.path for kernel in warmup.entry_kernels(warmup.ALL_MODULES)]

    def copy(cache: Path) -> list[Path]:
        (cache / "kernels" / folder.name).mkdir(parents=True)
        return [Path(shutil.copy(path, cache / "kernels" / folder.name)) for path in found if path]

    return copy


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three small photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("1.png", "2.png", "3.png"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    cuda = FakeCuda()
    yield cuda
    cuda.check_end()


@pytest.fixture
def library(cuda: FakeCuda) -> Any:
    return FakeTensorRT(cuda)


@pytest.fixture
def device(cuda: FakeCuda) -> CudaDevice:
    return CudaDevice(runtime=cuda)  # type: ignore[arg-type]
