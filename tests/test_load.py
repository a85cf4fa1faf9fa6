"""Which backend, device and precision go together, and what is said when they do not."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from esam_rt import EntitySegmenter, Settings
from esam_rt.engines.cuda import CudaDevice
from esam_rt.engines.tensorrt_build import BuildOptions, BuiltEngine
from esam_rt.errors import DeviceError, MissingDependencyError, ModelError, SettingsError
from esam_rt.load import Placement, load_sam
from esam_rt.models import MODELS
from esam_rt.self_test import SelfTest

from .fake_cuda import FakeCuda
from .fake_tensorrt import FakeTensorRT, make_plan
from .scene import photo_of, quadrants
from .test_cli import assert_one_error_line, call


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_defaults_follow_the_backend() -> None:
    assert [Placement().device, Placement().precision] == ["cpu", "fp32"]
    assert [Placement("tensorrt").device, Placement("tensorrt").precision] == ["cuda", "fp16"]
    assert Placement("onnxruntime", "cuda").precision == "fp32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "tensorr"}, "Unknown backend 'tensorr'. Did you mean tensorrt, .* Known: onnxruntime, tensorrt"),
        ({"device": "gpu"}, "Unknown device 'gpu'. .*Known: cpu, cuda"),
        ({"precision": "int8"}, "Unknown precision 'int8'. Known: fp32, fp16, bf16"),
        ({"backend": "tensorrt", "device": "cpu"}, "tensorrt runs on device cuda only, found device cpu"),
        ({"backend": "tensorrt", "threads": 3}, "Threads are for the CPU, found backend tensorrt"),
        ({"engines": Path("x")}, "Engines are for the backends tensorrt and tensorrt-rtx, found backend onnxruntime"),
    ],
)
def test_what_does_not_go_together(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Placement(**arguments)


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth: found no such file"):
        load_sam("vit_b", checkpoint=str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setitem(sys.modules, backend.replace("-", "_"), None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'esam-rt\[{backend}\]'"):
        load_sam("tiny", Placement(backend))


def test_no_gpu_is_an_error_never_a_quiet_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none(*_: object) -> None:
        raise DeviceError("GPU 0: found no NVIDIA driver; expected one.")

    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr("esam_rt.engines.cuda.CudaDevice", none)
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        load_sam("tiny", Placement("tensorrt"))
    (tmp_path / "photo.png").write_bytes(b"")
    result = call("run", tmp_path / "photo.png", "--backend", "tensorrt", "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert_one_error_line(result, "no NVIDIA driver")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for CUDA, for TensorRT and for its builder; the graphs that were built."""
    cuda = FakeCuda()
    library = FakeTensorRT(cuda)
    graphs: list[str] = []

    def build(path: Path, library: Any, options: BuildOptions, progress: object) -> BuiltEngine:
        graphs.append(path.name)
        side, model = MODELS["tiny"].input_px // 16, onnx.load(path)
        most = {"B": options.max_batch, "M": options.max_batch, "rows": side, "columns": side}
        shapes = {t.name: [d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim] for t in model.graph.input}
        profile = {
            name: (tuple(1 if n in most else n for n in shape), tuple(most.get(n, n) for n in shape))
            for name, shape in shapes.items()
            if any(n in most for n in shape)
        }
        ranges = {name: (low, high, high) for name, (low, high) in profile.items()}
        return BuiltEngine(make_plan(model.SerializeToString(), profile), 7, 0, 0.1, ranges)

    monkeypatch.setattr("esam_rt.engine_store.build_engine", build)
    monkeypatch.setattr("esam_rt.engine_store.load_library", lambda backend: library)
    monkeypatch.setattr("esam_rt.engines.tensorrt_build.load_library", lambda backend: library)
    monkeypatch.setattr("esam_rt.engines.cuda.CudaDevice", partial(CudaDevice, runtime=cuda))
    return graphs


def test_a_run_on_engines_that_are_built_first(built: list[str], cache: Path) -> None:
    """From a name to entities."""
    settings = Settings().with_overrides({"prompts.coarse_side": 5, "prompts.fine_side": 9})
    photo = photo_of(quadrants()[0], scale=6)
    with EntitySegmenter("tiny", settings=settings) as segment:
        expected = segment(photo)
    for _ in range(2):
        with EntitySegmenter("tiny", settings=settings, backend="tensorrt", precision="fp32") as segment:
            found = segment(photo)
            info = segment.model_info()
        assert [info[key] for key in ("backend", "device", "precision")] == ["tensorrt", "cuda", "fp32"]
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert built == ["encoder.onnx", "decoder.onnx", "masks.onnx", "logits.onnx"]
    (folder,) = (p for p in (cache / "engines").iterdir() if p.is_dir())
    with EntitySegmenter("tiny", settings=settings, backend="tensorrt", precision="fp32", engines=folder) as segment:
        np.testing.assert_array_equal(segment(photo).labels, expected.labels)
    (folder / "decoder.engine").write_bytes(b"hostile")
    with pytest.raises(ModelError, match=r"decoder\.engine: found 7 bytes"):
        EntitySegmenter("tiny", backend="tensorrt", precision="fp32", build=False)


def test_build_engine_ends_with_a_self_test(built: list[str]) -> None:
    result = call("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "mean IoU 1.0000 with ONNX Runtime in fp32, scores within 0.0000." in result.stdout
    tested = json.loads(call("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32", "--json").stdout)
    assert tested["self_test"]["masks"] > 30
    assert tested["gpu"]["capability"].startswith("sm_")
    assert len(built) == 4


def test_a_self_test_that_fails_is_3(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esam_rt.self_test.IOU_MIN", 1.1)
    result = call("build-engine", "tiny", "--backend", "tensorrt", "--precision", "fp32")
    assert result.exit_code == 3
    assert_one_error_line(result, "Self-test", "--no-fusion")
    with pytest.raises(ModelError, match=r"self_test: found .*failed"):
        EntitySegmenter("tiny", backend="tensorrt", precision="fp32", build=False)


def test_engines_are_tested_once(built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def count(*arguments: Any) -> SelfTest:
        tests.append(arguments)
        return SelfTest(1, 1.0, 0.0)

    tests: list[Any] = []
    monkeypatch.setattr("esam_rt.self_test.self_test", count)
    for _ in range(2):
        EntitySegmenter("tiny", backend="tensorrt").close()
    assert len(tests) == 1
