"""The ONNX Runtime backend: feeds, failures, threads, and messages about missing libraries."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from esam_rt.engines import Engine, TensorSpec
from esam_rt.engines.onnxruntime import providers
from esam_rt.engines.onnxruntime.cuda_libraries import load_cuda
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.engines.onnxruntime.providers import share_memory
from esam_rt.errors import (
    DeviceError,
    EngineError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    SettingsError,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """y = x · scale [N, 3]; `zeros`: a tensor of `size` elements."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["y"]),
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        ],
        "double",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("size", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("zeros", TensorProto.FLOAT, ["M"]),
        ],
    )
    path = tmp_path / "double.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def feed(n: int = 2, size: int = 1) -> dict[str, np.ndarray]:
    x = np.arange(3 * n, dtype=np.float32).reshape(n, 3)
    return {"x": x, "scale": np.array(2, np.float32), "size": np.array([size])}


def test_runs(path: Path) -> None:
    engine: Engine = OnnxRuntimeEngine(path, threads=1)
    assert engine.inputs == (
        TensorSpec("x", np.dtype(np.float32), (None, 3)),
        TensorSpec("scale", np.dtype(np.float32), ()),
        TensorSpec("size", np.dtype(np.int64), (1,)),
    )
    assert [t.name for t in engine.outputs] == ["y", "zeros"]
    out = engine.infer(feed(4))
    assert list(out) == ["y", "zeros"]
    np.testing.assert_array_equal(out["y"], 2 * feed(4)["x"])


def test_takes_scalars_and_views(path: Path) -> None:
    with OnnxRuntimeEngine(path) as engine:
        x = np.arange(12, dtype=np.float32).reshape(3, 4).T
        out = engine.infer({**feed(), "x": x, "scale": np.float32(3)})
        np.testing.assert_array_equal(out["y"], 3 * x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, r"double\.onnx: missing input x"),
        ({"z": np.zeros(1)}, r"double\.onnx: unknown input z"),
        ({"x": np.zeros((2, 4), np.float32)}, r"input x: expected float32 any×3, got float32 2×4"),
        ({"x": np.zeros((2, 3))}, r"input x: expected float32 any×3, got float64 2×3"),
        ({"scale": np.zeros(1, np.float32)}, r"input scale: expected float32 scalar, got float32 1"),
    ],
)
def test_wrong_feed(path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    with OnnxRuntimeEngine(path) as engine, pytest.raises(EngineError, match=message):
        engine.infer({k: v for k, v in {**feed(), **change}.items() if v is not None})


def test_closed(path: Path) -> None:
    with OnnxRuntimeEngine(path) as engine:
        engine.infer(feed())
    engine.close()
    with pytest.raises(EngineError, match=r"double\.onnx: used after close"):
        engine.infer(feed())


def test_failures_are_translated_and_stderr_stays_clean(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with OnnxRuntimeEngine(path) as engine:
        with pytest.raises(DeviceError, match=r"double\.onnx: out of memory"):
            engine.infer(feed(size=1 << 52))
        with pytest.raises(EngineError, match=r"double\.onnx: ONNX Runtime failed"):
            engine.infer(feed(size=-5))
        np.testing.assert_array_equal(engine.infer(feed())["y"], 2 * feed()["x"])
    assert capfd.readouterr() == ("", "")


def test_threads_share_an_engine(path: Path) -> None:
    with OnnxRuntimeEngine(path, threads=2) as engine, ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda n: engine.infer(feed(n))["y"], range(1, 200)))
    for n, y in enumerate(results, 1):
        np.testing.assert_array_equal(y, 2 * feed(n)["x"])


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated"])
def test_broken_files(path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"version https://git-lfs", "truncated": data[: len(data) // 2]}[kind])
    with pytest.raises(ModelError, match=r"double\.onnx: .*expected"):
        OnnxRuntimeEngine(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("threads", "expected"), [(None, 3), (5, 5)])
def test_threads_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, expected: int
) -> None:
    """Not those of the host, of which a container may have a part."""
    monkeypatch.setattr(providers, "usable_cpus", lambda: 3)
    assert providers._session_options(providers.SessionConfig("cpu", threads)).intra_op_num_threads == expected


def test_unknown_device_and_threads(path: Path) -> None:
    with pytest.raises(SettingsError, match=r"Unknown device 'cudda'\. Did you mean cuda"):
        OnnxRuntimeEngine(path, device="cudda")
    with pytest.raises(SettingsError, match="threads: found 0, expected at least 1"):
        OnnxRuntimeEngine(path, threads=0)


@pytest.mark.parametrize(("device", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_without_onnxruntime(path: Path, device: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'esam-rt\[{extra}\]'"):
        OnnxRuntimeEngine(path, device=device)


def test_gpu_not_in_the_package(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match=r"has CPUExecutionProvider but not CUDAExecutionProvider.*esam-rt\[gpu\]"):
        OnnxRuntimeEngine(path, device="cuda")


def test_gpu_that_does_not_start_is_no_quiet_cpu_run(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = onnxruntime.InferenceSession

    def falls_back(
        path: Path, options: object, providers: list[tuple[str, dict[str, str]]], **kwargs: object
    ) -> object:
        assert kwargs == {"enable_fallback": False}
        ((name, own_options),) = providers
        assert (name, own_options["use_tf32"]) == ("CUDAExecutionProvider", "0")
        return session(path, options, providers=["CPUExecutionProvider"])

    loaded: list[bool] = []

    def preload() -> None:
        loaded.append(True)
        print("Failed to load libcudnn.so.9")

    load_cuda.cache_clear()
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(DeviceError, match="Device cuda: ONNX Runtime could not start CUDAExecutionProvider"):
        OnnxRuntimeEngine(path, device="cuda")
    assert loaded
    assert capsys.readouterr() == ("", ""), "stdout is for results"


def test_gpu_out_of_memory_while_loading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> object:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(DeviceError, match=r"double\.onnx: not enough memory on device cpu"):
        OnnxRuntimeEngine(path)


def test_memory_that_is_shared_already(path: Path) -> None:
    """Another library of the process may share it: ONNX Runtime raises an error if it is registered twice."""
    with OnnxRuntimeEngine(path) as first:
        share_memory.__wrapped__()
        with OnnxRuntimeEngine(path) as second:
            np.testing.assert_array_equal(first.infer(feed())["y"], second.infer(feed())["y"])


def spoiled(path: Path, name: bytes, at: int) -> Path:
    """Make one occurrence of a name in a graph no UTF-8: ``at`` counts from 0, or from the end if it is negative."""
    content = path.read_bytes()
    places = [i for i in range(len(content)) if content.startswith(name, i)]
    place = places[at]
    path.write_bytes(content[:place] + b"\xe5" + content[place + 1 :])
    return path


@pytest.mark.parametrize(
    ("name", "at"), [(b"scale", 0), (b"scale", 1), (b"zeros", 0), (b"zeros", 1), (b"N", 0), (b"M", -1), (b"Mul", 0)]
)
def test_names_that_are_not_utf8(path: Path, name: bytes, at: int) -> None:
    """ONNX Runtime puts the bytes into its message, and Python cannot decode them: the error is ours all the same."""
    try:
        with OnnxRuntimeEngine(spoiled(path, name, at), threads=1) as engine:
            engine.infer(feed())
    except (ModelError, EngineError) as e:
        message = str(e)
    else:
        message = "ran"  # nothing reads the name of a dimension or of the graph
    message.encode("utf-8")
    assert "\n" not in message and len(message) < 1000


def test_a_message_that_is_not_utf8_is_quoted(path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be loaded: .*\\xe5cale"):
        OnnxRuntimeEngine(spoiled(path, b"scale", 0), threads=1)


def test_a_failure_of_a_call_that_is_not_utf8(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = b"BFCArena: Failed to allocate memory for \xe5\x9c"

    def fail(*arguments: object) -> None:
        words.decode("utf-8")

    engine = OnnxRuntimeEngine(path, threads=1)
    monkeypatch.setattr(OnnxRuntimeEngine, "_run", fail)
    with pytest.raises(OutOfMemoryError, match=r"memory for \\xe5\\x9c"):
        engine.infer(feed())
    words = b"Non-zero status \xff"
    with pytest.raises(EngineError, match=r"ONNX Runtime failed: Non-zero status \\xff"):
        engine.infer(feed())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_path_that_is_not_utf8(path: Path) -> None:
    folder = path.parent / "not utf-8 \udcff"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"not utf-8 \\udcff/double\.onnx: ONNX Runtime reads only .*ESAM_RT_CACHE"):
        OnnxRuntimeEngine(path.rename(folder / path.name), threads=1)
