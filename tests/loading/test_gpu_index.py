"""Models on a GPU that is not the first, on the stand-ins for CUDA, ONNX Runtime and TensorRT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from esam_rt.engines.onnxruntime import providers
from esam_rt.errors import DeviceError, SettingsError
from esam_rt.loading.engine_cache import gpu_here, stored
from esam_rt.loading.engine_record import checked
from esam_rt.loading.engine_spec import Gpu
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.sam.point_grids import point_grid
from tests.loading.test_loader import use_library
from tests.loading.test_memory_budget import EVERYTHING
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_onnxruntime import FakeGpu
from tests.support.fake_tensorrt_builder import FakeTensorRTBuilder
from tests.support.scene import photo_of, quadrants


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """Two GPUs, only the second of which may be used by ONNX Runtime."""
    monkeypatch.setattr(providers, "missing_tensorrt", lambda library: None)
    gpu = FakeGpu(index=1, cuda=FakeCuda(gpus=2)).install(monkeypatch)
    yield gpu
    assert gpu.violations == []


@pytest.mark.parametrize("options", [{}, {"cuda_graphs": True}, {"memory_mb": 900}], ids=str)
def test_onnxruntime_on_another_gpu(gpus: FakeGpu, options: dict[str, Any]) -> None:
    """Sessions, outputs that stay, arenas and graphs are all there."""
    sam = load_sam("tiny", ExecutionConfig(device="cuda", gpu=1, **options))
    image = photo_of(quadrants()[0], scale=8)
    for _ in range(3):
        sam.decode(sam.encode(image), point_grid(8), 0, EVERYTHING)
    assert gpus.sessions
    assert (gpus.captures > 0) == ("cuda_graphs" in options)
    sam.close()


def test_the_tensorrt_provider_on_another_gpu(gpus: FakeGpu) -> None:
    load_sam("tiny", ExecutionConfig(device="tensorrt", gpu=1)).close()
    assert len(gpus.engines_built) == 4


def test_tensorrt_on_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are built, loaded and recorded there."""
    cuda = FakeCuda(gpus=2)
    use_library(monkeypatch, FakeTensorRTBuilder(cuda))
    sam = load_sam("tiny", ExecutionConfig("tensorrt", precision="fp32", gpu=1))
    device: Any = sam.engines.decoder
    assert device._device.index == 1
    (folder,) = stored()
    assert checked(folder).record.gpu == gpu_here(1) == Gpu("sm_87", "Fake GPU")
    assert cuda.used(0) == 0
    sam.close()


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    use_library(monkeypatch, FakeTensorRTBuilder(FakeCuda(gpus=2)))
    with pytest.raises(DeviceError, match="GPU 2: found 2 GPUs here, expected an index from 0 to 1"):
        load_sam("tiny", ExecutionConfig("tensorrt", gpu=2))
    assert gpu_here(2) is None


@pytest.mark.parametrize("options", [{}, {"memory_mb": 900}], ids=str)
def test_a_gpu_that_onnxruntime_does_not_find(
    gpus: FakeGpu, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """The model is whole: what is wrong is the index."""

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Invalid device ID: 2, must be between 0 (inclusive) and 2 (exclusive).")

    monkeypatch.setattr(onnxruntime, "create_and_register_allocator_v2" if options else "InferenceSession", fails)
    with pytest.raises(DeviceError, match=r"GPU 2: ONNX Runtime does not find it here; .* --gpu: .* and 2 \(exclusive"):
        load_sam("tiny", ExecutionConfig(device="cuda", gpu=2, **options))


@pytest.mark.parametrize(
    ("index", "message"),
    [(-1, "GPU: found index -1, expected 0 or more"), (1, "GPU: found index 1 with device cpu, expected device cuda")],
)
def test_indices_that_cannot_be(index: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ExecutionConfig(gpu=index)
