"""TensorRT engines on stand-ins for CUDA and the library: memory, order, threads, failures, the whole pipeline."""

from __future__ import annotations

import functools
import gc
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from esam_rt.engines import Engine, TensorSpec
from esam_rt.engines.cuda.api import name_and_capability
from esam_rt.engines.cuda.device import CudaDevice, DeviceBuffer, HostBuffer
from esam_rt.engines.dtypes import TENSORRT_DTYPES
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
from esam_rt.errors import DeviceError, EngineError, InputError, MissingDependencyError, ModelError, OutOfMemoryError
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.sam.models import MODELS
from esam_rt.sam.predictor import Engines, Sam
from esam_rt.segmenter import EntitySegmenter
from esam_rt.settings import Settings
from tests.support.fake_cuda import FakeCuda, Operation, Result, Status
from tests.support.fake_tensorrt import make_plan
from tests.support.gpu_arrays import Foreign
from tests.support.processes import GUARD_S
from tests.support.scene import photo_of, quadrants

F32 = TensorProto.FLOAT
PROFILE = {"x": ((1, 3), (64, 3))}


Load = Callable[..., TensorRTEngine]


@pytest.fixture
def load(library: Any, device: CudaDevice) -> Load:
    def load(model: bytes, **table: Any) -> TensorRTEngine:
        return TensorRTEngine("net", make_plan(model, **{"profile": PROFILE, **table}), library, device)

    return load


def graph(nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any]) -> bytes:
    """Make a model. inputs and outputs: name, type, shape."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info(*t) for t in inputs],
            [helper.make_tensor_value_info(*t) for t in outputs],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return model.SerializeToString()


def scaling() -> bytes:
    """y = x · scale [N, 3], sine of it, and the sum of each row of x."""
    return graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["y"]),
            helper.make_node("Sin", ["y"], ["sine"]),
            helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        ],
        [("x", F32, ["N", 3]), ("scale", F32, [])],
        [("y", F32, ["N", 3]), ("sine", F32, ["N", 3]), ("total", F32, [])],
    )


def following() -> bytes:
    """z = exp(x) [N, 3]."""
    return graph([helper.make_node("Exp", ["x"], ["z"])], [("x", F32, ["N", 3])], [("z", F32, ["N", 3])])


def feed(n: int = 2, scale: float = 2) -> dict[str, Any]:
    x = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    return {"x": x, "scale": np.array(scale, np.float32)}


def on_onnxruntime(model: bytes, folder: Path) -> OnnxRuntimeEngine:
    path = folder / "net.onnx"
    path.write_bytes(model)
    return OnnxRuntimeEngine(path, threads=1)


def test_runs(load: Load) -> None:
    engine: Engine = load(scaling())
    assert engine.inputs == (
        TensorSpec("x", np.dtype(np.float32), (None, 3)),
        TensorSpec("scale", np.dtype(np.float32), ()),
    )
    assert [(t.name, t.shape) for t in engine.outputs] == [("y", (None, 3)), ("sine", (None, 3)), ("total", ())]
    for n in (4, 64, 1):
        out = engine.infer(feed(n))
        assert list(out) == ["y", "sine", "total"]
        assert out["total"].shape == ()
        np.testing.assert_array_equal(out["y"], 2 * feed(n)["x"])


def test_takes_scalars_and_views(load: Load) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    out = load(scaling()).infer({"x": x, "scale": np.float32(3)})
    np.testing.assert_array_equal(out["y"], 3 * x)


def test_every_dtype_passes_bit_for_bit(load: Load) -> None:
    names = {n: n.replace("HALF", "FLOAT16").replace("BF16", "BFLOAT16") for n in TENSORRT_DTYPES}
    ends = [(f"{kind}_{n}", getattr(TensorProto, names[n]), [5, 7]) for kind in ("in", "out") for n in TENSORRT_DTYPES]
    nodes = [helper.make_node("Identity", [f"in_{n}"], [f"out_{n}"]) for n in TENSORRT_DTYPES]
    engine = load(graph(nodes, ends[: len(TENSORRT_DTYPES)], ends[len(TENSORRT_DTYPES) :]))
    rng = np.random.default_rng(0)
    arrays = {
        n: np.frombuffer(rng.bytes(35 * np.dtype(d).itemsize), d).reshape(5, 7) for n, d in TENSORRT_DTYPES.items()
    }
    arrays["BOOL"] = rng.integers(0, 2, (5, 7)).astype(bool)
    assert np.dtype(ml_dtypes.bfloat16) in [t.dtype for t in engine.inputs]
    given = {f"in_{n}": a for n, a in arrays.items()}
    kept = engine.infer(given, outputs_on_device=[t.name for t in engine.outputs])
    again = engine.infer({f"in_{n}": engine._device.view(kept[f"out_{n}"]) for n in arrays})
    for n, array in arrays.items():
        assert kept[f"out_{n}"].dtype == again[f"out_{n}"].dtype == array.dtype
        assert kept[f"out_{n}"].numpy().tobytes() == again[f"out_{n}"].tobytes() == array.tobytes()


def test_a_chain_on_the_gpu_is_onnxruntime_bit_for_bit(load: Load, cuda: FakeCuda, tmp_path: Path) -> None:
    first, second = load(scaling()), load(following())
    out = first.infer(feed(33), outputs_on_device=["sine", "y"])
    assert isinstance(out["sine"], DeviceBuffer)
    assert (out["sine"].shape, out["sine"].dtype) == ((33, 3), np.float32)
    results = {name: second.infer({"x": out[name]})["z"] for name in ("sine", "y")}
    with on_onnxruntime(scaling(), tmp_path) as engine:
        expected = engine.infer(feed(33))
    with on_onnxruntime(following(), tmp_path) as engine:
        for name, z in results.items():
            np.testing.assert_array_equal(z, engine.infer({"x": expected[name]})["z"])
            np.testing.assert_array_equal(out[name].numpy(), expected[name])
    np.testing.assert_array_equal(out["total"], expected["total"])


def test_what_is_kept_is_not_copied_to_the_host(load: Load, cuda: FakeCuda) -> None:
    engine = load(following())
    kept = engine.infer({"x": feed()["x"]}, outputs_on_device=["z"])["z"]
    cuda.called.clear()
    engine.infer({"x": kept}, outputs_on_device=["z"])
    assert "cudaMallocFromPoolAsync" in cuda.called
    assert "cudaMemcpyAsync" not in cuda.called


def test_results_are_never_overwritten(load: Load) -> None:
    engine = load(scaling())
    outs = [engine.infer(feed(5, scale), outputs_on_device=["y"] if scale % 2 else [])["y"] for scale in range(1, 9)]
    for scale, y in enumerate(outs, 1):
        np.testing.assert_array_equal(y.numpy() if scale % 2 else y, scale * feed(5)["x"])


def test_a_dropped_input_lives_until_the_stream_has_used_it(load: Load) -> None:
    first, second = load(scaling()), load(following())
    z = second.infer({"x": first.infer(feed(3), outputs_on_device=["y"])["y"]})["z"]
    np.testing.assert_allclose(z, np.exp(2 * feed(3)["x"]), rtol=1e-6)


def test_threads_share_an_engine(load: Load) -> None:
    engine, second = load(scaling()), load(following())
    serial = [engine.infer(feed(n))["sine"] for n in range(1, 65)]

    def one(i: int) -> tuple[int, Any, Any]:
        n = 1 + i % 64
        out = engine.infer(feed(n), outputs_on_device=["y"] if i % 2 else [])
        second.infer({"x": out["y"]})
        return n, out["sine"], out["y"].numpy() if i % 2 else out["y"]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for n, sine, y in pool.map(one, range(400)):
                np.testing.assert_array_equal(sine, serial[n - 1])
                np.testing.assert_array_equal(y, 2 * feed(n)["x"])
    finally:
        sys.setswitchinterval(interval)


def test_nothing_leaks(load: Load, cuda: FakeCuda) -> None:
    engine, second = load(scaling()), load(following())
    engine.infer(feed(64), outputs_on_device=["y"])
    second.infer({"x": engine.infer(feed(64), outputs_on_device=["y"])["y"]})
    cuda.finish()
    before = cuda.live()
    for n in range(1, 65):
        second.infer({"x": engine.infer(feed(n), outputs_on_device=["y"])["y"]}, outputs_on_device=["z"])
    cuda.finish()
    assert cuda.live() == before


def test_out_of_memory_at_each_allocation(cuda: FakeCuda, load: Load) -> None:
    allocations = ("pinned", "inputs", "outputs", "scratch", "y", "sine")
    for nth, name in enumerate((*allocations, "no more"), 1):
        with load(scaling()) as engine:
            cuda.finish()
            before = cuda.live()[0]
            cuda.fail_allocation(nth)
            if name == "no more":
                engine.infer(feed(9), outputs_on_device=["y", "sine"])
                assert cuda.failure_is_ahead()
                cuda.fail_allocation(0)
                break
            with pytest.raises(OutOfMemoryError, match="GPU 0: out of memory") as caught:
                engine.infer(feed(9), outputs_on_device=["y", "sine"])
            cuda.finish()
            assert cuda.live()[0] == before + (name != "pinned"), "while the error, and what it refers to, still lives"
            assert caught.value.exit_code == 4
            np.testing.assert_array_equal(engine.infer(feed(9))["y"], 2 * feed(9)["x"])


def test_out_of_memory_while_loading(load: Load, cuda: FakeCuda) -> None:
    cuda.fail_allocation(1)
    with pytest.raises(OutOfMemoryError, match=r"net: not enough memory on GPU 0 to load it.*out of memory"):
        load(scaling())
    np.testing.assert_array_equal(load(scaling()).infer(feed())["y"], 2 * feed()["x"])


def test_out_of_memory_inside_the_library(load: Load, library: Any) -> None:
    engine = load(scaling())
    library.refusal = "Error Code 2: OutOfMemory (Requested size was 9 bytes.)"
    with pytest.raises(OutOfMemoryError, match=r"net: out of memory on GPU 0; use smaller batches.*9 bytes"):
        engine.infer(feed())
    library.refusal = None
    np.testing.assert_array_equal(engine.infer(feed())["y"], 2 * feed()["x"])


def test_a_launch_that_fails(load: Load, library: Any, cuda: FakeCuda) -> None:
    engine = load(scaling())
    engine.infer(feed())
    cuda.finish()
    before = cuda.live()
    library.refusal = "Error Code 7: shape mismatch in node 3"
    for _ in range(2):  # the second message has only its own failure
        with pytest.raises(
            EngineError, match=r"^net: TensorRT could not run: Error Code 7: shape mismatch in node 3$"
        ) as caught:
            engine.infer(feed(), outputs_on_device=["y"])
        cuda.finish()
        assert cuda.live() == before, f"while {caught.value!r}, and what it refers to, still lives"
    library.refusal = None
    np.testing.assert_array_equal(engine.infer(feed())["y"], 2 * feed()["x"])
    library.refusal = "again"
    with pytest.raises(EngineError, match="again"):
        engine.infer(feed())
    engine.close()  # no work may still need its pinned memory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "net: missing input x"),
        ({"z": np.zeros(1)}, "net: unknown input z"),
        ({"x": np.zeros((2, 4), np.float32)}, "input x: expected float32 any×3, got float32 2×4"),
        ({"x": np.zeros((2, 3))}, "input x: expected float32 any×3, got float64 2×3"),
        ({"scale": np.zeros(1, np.float32)}, "input scale: expected float32 scalar, got float32 1"),
        ({"x": np.zeros((65, 3), np.float32)}, "input x: axis 0: expected 1…64, got 65"),
        ({"x": np.zeros((0, 3), np.float32)}, "input x: expected no empty dimension, got 0×3"),
        ({"x": [[1.0, 2.0, 3.0]]}, "input x: expected a NumPy array or memory of GPU 0, got list"),
    ],
)
def test_wrong_feeds(load: Load, change: dict[str, Any], message: str) -> None:
    with load(scaling()) as engine:
        with pytest.raises(EngineError, match=message):
            engine.infer({k: v for k, v in {**feed(), **change}.items() if v is not None})
        np.testing.assert_array_equal(engine.infer(feed())["y"], 2 * feed()["x"])


def test_a_wrong_kept_input(load: Load) -> None:
    first, second = load(scaling()), load(following())
    total = first.infer(feed(), outputs_on_device=["total"])["total"]
    with pytest.raises(EngineError, match="input x: expected float32 any×3, got float32 scalar"):
        second.infer({"x": total})
    y = first.infer(feed(), outputs_on_device=["y"])["y"]
    y.close()
    y.close()
    with pytest.raises(EngineError, match="GPU 0: array used after close"):
        second.infer({"x": y})


def test_closed(load: Load, cuda: FakeCuda) -> None:
    engine = load(scaling())
    kept = engine.infer(feed(), outputs_on_device=["y"])["y"]
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="net: used after close"):
        engine.infer(feed())
    cuda.finish()
    assert cuda.live()[0] == 1, "what was kept outlives its engine"
    np.testing.assert_array_equal(kept.numpy(), 2 * feed()["x"])


def test_close_waits_for_another_thread(load: Load, library: Any) -> None:
    engine = load(scaling())
    launching, may_launch = threading.Event(), threading.Event()

    def at_launch() -> None:
        launching.set()
        assert may_launch.wait(GUARD_S)

    library.at_launch = at_launch
    with ThreadPoolExecutor(3) as pool:
        infers = pool.submit(engine.infer, feed(7))
        assert launching.wait(GUARD_S)
        closes = pool.submit(engine.close)
        comes_late = pool.submit(engine.infer, feed(7))
        with pytest.raises(TimeoutError):
            closes.result(0.1)
        may_launch.set()
        np.testing.assert_array_equal(infers.result(GUARD_S)["y"], 2 * feed(7)["x"])
        closes.result(GUARD_S)
        error = comes_late.exception(GUARD_S)
        assert error is None or str(error) == "net: used after close()."
    with pytest.raises(EngineError, match="used after close"):
        engine.infer(feed(7))


def test_a_plan_that_cannot_be_loaded(library: Any, device: CudaDevice, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError) as caught:
        TensorRTEngine("mask_head.engine", b"version https://git-lfs", library, device)
    assert str(caught.value) == (
        "mask_head.engine: expected a TensorRT engine built for this GPU and version (sm_86, fake_tensorrt 10.9.8), "
        "found "
        "one that cannot be loaded: assertion header.magicTag == kEXPECTED_MAGIC_TAG failed. Build it again: esam-rt "
        "build-engine."
    )
    assert capfd.readouterr() == ("", "")


def test_a_library_that_cannot_start(library: Any, device: CudaDevice) -> None:
    library.starts = False
    with pytest.raises(DeviceError, match=r"GPU 0: fake_tensorrt 10\.9\.8 cannot start: CUDA initialization failure"):
        TensorRTEngine("net", b"", library, device)


def test_engines_that_the_runner_does_not_take(load: Load) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    int8 = graph(nodes, [("x", TensorProto.INT8, [3])], [("y", TensorProto.INT8, [3])])
    with pytest.raises(ModelError, match="net: x: found INT8, expected one of FLOAT, HALF, BF16"):
        load(int8)
    with pytest.raises(ModelError, match="net: scale: found a tensor that must lie on the host"):
        load(scaling(), on_host=["scale"])
    with (
        load(scaling(), data_dependent=["sine"]) as engine,
        pytest.raises(EngineError, match="net: sine: expected shapes that follow from those of the inputs"),
    ):
        engine.infer(feed())


def test_outputs_without_elements(load: Load) -> None:
    nodes = [helper.make_node("Slice", ["x", "start", "start"], [n]) for n in ("first", "last")]
    engine = load(
        graph(
            [*nodes, helper.make_node("Neg", ["x"], ["y"])],
            [("x", F32, ["N", 3]), ("start", TensorProto.INT64, [1])],
            [("first", F32, ["M", 3]), ("y", F32, ["N", 3]), ("last", F32, ["M", 3])],
        )
    )
    for keep in ([], ["first"], ["first", "y", "last"]):
        out = engine.infer({"x": feed()["x"], "start": np.zeros(1, np.int64)}, outputs_on_device=keep)
        out = {name: a.numpy() if name in keep else a for name, a in out.items()}
        assert out["first"].shape == out["last"].shape == (0, 3)
        np.testing.assert_array_equal(out["y"], -feed()["x"])


# Memory of other libraries.


def test_takes_and_gives_memory_of_other_libraries(load: Load, cuda: FakeCuda, device: CudaDevice) -> None:
    engine = load(following())
    x = feed(6)["x"]
    np.testing.assert_array_equal(engine.infer({"x": Foreign(cuda, x)})["z"], engine.infer({"x": x})["z"])
    kept = engine.infer({"x": Foreign(cuda, x, strides=(12, 4))}, outputs_on_device=["z"])["z"]
    interface = kept.__cuda_array_interface__
    assert interface == {
        "version": 3,
        "shape": (6, 3),
        "typestr": "<f4",
        "data": (kept.pointer, False),
        "strides": None,
        "stream": device.stream,
    }
    view = device.view(kept)
    assert (view.pointer, view.shape, view.dtype, view.nbytes) == (kept.pointer, (6, 3), np.float32, 72)
    del kept
    np.testing.assert_array_equal(view.numpy(), engine.infer({"x": x})["z"])
    view.close()
    with pytest.raises(EngineError, match="used after close"):
        _ = view.__cuda_array_interface__


def test_waits_for_the_stream_of_another_library(load: Load, cuda: FakeCuda) -> None:
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    foreign = Foreign(cuda, np.zeros((1, 3), np.float32), stream=stream)
    written = []
    cuda.enqueue(stream, Operation(lambda: written.append(True)))
    load(following()).infer({"x": foreign})
    assert written
    cuda.cudaStreamDestroy(stream)


def test_kept_by_another_device(library: Any, cuda: FakeCuda, load: Load) -> None:
    other_stream = CudaDevice(runtime=cuda)  # type: ignore[arg-type]
    other_gpu = CudaDevice(1, runtime=cuda)  # type: ignore[arg-type]
    plan = make_plan(scaling(), PROFILE)
    engine = load(following())
    y = TensorRTEngine("net", plan, library, other_stream).infer(feed(), outputs_on_device=["y"])["y"]
    np.testing.assert_array_equal(engine.infer({"x": y})["z"], engine.infer({"x": 2 * feed()["x"]})["z"])
    y = TensorRTEngine("net", plan, library, other_gpu).infer(feed(), outputs_on_device=["y"])["y"]
    with pytest.raises(InputError, match="GPU array: expected memory of GPU 0, found it elsewhere"):
        engine.infer({"x": y})


@pytest.mark.parametrize(
    ("interface", "error", "message"),
    [
        (
            {"strides": (4, 16)},
            InputError,
            r"found shape \[4, 3\] with strides \[4, 16\], expected a C-contiguous array",
        ),
        ({"strides": (24, 4)}, InputError, "C-contiguous"),
        ({"mask": object()}, InputError, "found one with a mask"),
        ({"data": (64, False)}, InputError, "expected memory of GPU 0, found it elsewhere"),
        ({"typestr": "<f8"}, EngineError, "input x: expected float32 any×3, got float64 4×3"),
        ({"shape": (0, 3), "data": (0, False)}, EngineError, "expected no empty dimension, got 0×3"),
    ],
)
def test_memory_that_cannot_be_used(
    load: Load, cuda: FakeCuda, interface: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(following()).infer({"x": Foreign(cuda, np.zeros((4, 3), np.float32), **interface)})


def test_a_part_of_a_greater_array(load: Load, cuda: FakeCuda) -> None:
    foreign = Foreign(cuda, np.zeros((4, 3), np.float32))
    foreign.interface |= {"shape": (2, 3), "data": (foreign.block.address + 24, False)}
    with pytest.raises(EngineError, match="input x: expected GPU memory aligned to 256 bytes"):
        load(following()).infer({"x": foreign})


def test_a_view_keeps_the_object(device: CudaDevice, cuda: FakeCuda) -> None:
    x = feed(3)["x"]
    view = device.view(Foreign(cuda, x))
    np.testing.assert_array_equal(view.numpy(), x)
    view.close()
    assert cuda.live()[0] == 0


def test_strides_of_single_elements_do_not_matter(device: CudaDevice, cuda: FakeCuda) -> None:
    array = Foreign(cuda, np.zeros((1, 4, 1, 2), np.float32), strides=(999, 8, 1, 4))
    assert device.view(array).shape == (1, 4, 1, 2)


# The device.


def test_a_callers_stream_is_used_and_not_destroyed(cuda: FakeCuda, library: Any) -> None:
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    device = CudaDevice(stream=stream, runtime=cuda)  # type: ignore[arg-type]
    assert device.stream == stream
    engine = TensorRTEngine("net", make_plan(scaling(), PROFILE), library, device)
    assert cuda.live()[1] == 2, "the caller's, and one for copies"
    np.testing.assert_array_equal(engine.infer(feed())["y"], 2 * feed()["x"])
    del engine, device
    assert cuda.live()[1] == 1
    cuda.cudaStreamDestroy(stream)


@pytest.mark.parametrize("default", [0, 1, 2])
def test_a_default_stream_is_waited_for_and_not_worked_on(cuda: FakeCuda, library: Any, default: int) -> None:
    device = CudaDevice(stream=default, runtime=cuda)  # type: ignore[arg-type]
    engine = TensorRTEngine("net", make_plan(following(), PROFILE), library, device, cuda_graphs=True)
    assert cuda.live()[1] == 2
    foreign = Foreign(cuda, feed()["x"])
    foreign.content[...] = 0
    wanted = [engine.infer({"x": n * feed()["x"]})["z"] for n in (2, 3, 4)]
    for n, z in zip((2, 3, 4), wanted, strict=True):
        late = functools.partial(np.copyto, foreign.content, n * feed()["x"])
        cuda.enqueue(0, Operation(late, (foreign.block,)))
        kept = engine.infer({"x": foreign}, outputs_on_device=["z"])["z"]
        np.testing.assert_array_equal(kept.numpy(), z)
        assert kept.__cuda_array_interface__["stream"] == device.stream not in (0, 1, 2)
        del kept
    del engine, device


def test_a_stream_of_another_gpu(cuda: FakeCuda) -> None:
    cuda.cudaSetDevice(1)
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    cuda.cudaSetDevice(0)
    with pytest.raises(InputError, match="Stream: found one of GPU 1, expected one of GPU 0"):
        CudaDevice(stream=stream, runtime=cuda)  # type: ignore[arg-type]
    gc.collect()
    cuda.broken["cudaStreamGetDevice"] = Status.cudaErrorInvalidValue  # an old driver cannot tell
    assert CudaDevice(stream=stream, runtime=cuda).stream == stream  # type: ignore[arg-type]
    gc.collect()
    cuda.cudaStreamDestroy(stream)


def test_a_streams_owner_is_held(cuda: FakeCuda) -> None:
    class Owner:
        def __init__(self) -> None:
            self.stream = cuda.cudaStreamCreateWithFlags(1)[1]

        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, self.stream

        def __del__(self) -> None:
            cuda.cudaStreamDestroy(self.stream)

    device = CudaDevice(stream=Owner(), runtime=cuda)  # type: ignore[arg-type]
    gc.collect()
    device.allocate((3,), np.uint8).close()
    assert cuda.live()[1] == 2
    device.synchronize()


def test_a_gpu_without_memory_pools(cuda: FakeCuda) -> None:
    cuda.has_pools = False
    with pytest.raises(DeviceError, match="GPU 0: Fake GPU has no memory pools"):
        CudaDevice(runtime=cuda)  # type: ignore[arg-type]
    assert name_and_capability(1, cuda) == ("Fake GPU", "sm_87")  # type: ignore[arg-type]


def test_another_gpu_of_several(cuda: FakeCuda, library: Any) -> None:
    device = CudaDevice(1, runtime=cuda)  # type: ignore[arg-type]
    assert (device.name, device.capability) == ("Fake GPU", "sm_87")
    engine = TensorRTEngine("net", make_plan(scaling(), PROFILE), library, device)
    with ThreadPoolExecutor(2) as pool:
        for y in pool.map(lambda n: engine.infer(feed(n), outputs_on_device=["y"])["y"].numpy(), [3] * 8):
            np.testing.assert_array_equal(y, 2 * feed(3)["x"])
    engine.infer(feed())
    assert cuda.current() == 0, "the caller's GPU is current again"


def test_memory_stays_in_the_pool_and_is_counted(cuda: FakeCuda, device: CudaDevice) -> None:
    assert list(cuda.thresholds.values()) == [2**64 - 1]
    before = device.free_bytes()
    with device.allocate((1000, 7), np.int64) as buffer:
        assert before - device.free_bytes() == buffer.nbytes == 56000
        assert buffer.pointer % 256 == 0
    device.synchronize()
    assert device.free_bytes() == before


def test_a_call_waits_for_itself_alone(load: Load, cuda: FakeCuda, device: CudaDevice) -> None:
    """It does not wait for later work of other threads: the GPU computes that while this call's outputs are copied."""
    engine, later = load(scaling()), []
    once = cuda.cudaEventSynchronize

    def and_another_thread(event: int) -> Any:
        cuda.enqueue(device.stream, Operation(lambda: later.append(True)))
        return once(event)

    cuda.cudaEventSynchronize = and_another_thread  # type: ignore[method-assign]
    np.testing.assert_array_equal(engine.infer(feed())["y"], 2 * feed()["x"])
    assert not later
    device.synchronize()
    assert later


def test_memory_is_not_given_back_while_it_is_copied(cuda: FakeCuda, device: CudaDevice) -> None:
    """The stand-in detects it: copies have a stream of their own."""
    buffer, target = device.allocate((3,), np.uint8), HostBuffer(device)
    done = device.download(target.sized(3), buffer)
    buffer.close()
    with pytest.raises(AssertionError, match="while another stream uses it"):
        device.synchronize()
    cuda.violations.clear()
    cuda.streams[device._copy_stream].waiting.clear()
    cuda.free(cuda.blocks[next(b.address for b in cuda.blocks.values() if b.free_asked)])
    del done


def test_the_device_lives_as_long_as_its_buffers(cuda: FakeCuda) -> None:
    device = CudaDevice(runtime=cuda)  # type: ignore[arg-type]
    buffer, staging = device.allocate((3,), np.uint8), HostBuffer(device)
    staging.sized(100)
    del device
    assert cuda.live() == (2, 2, 1)
    del staging
    assert cuda.live() == (1, 2, 1), "of the buffer"
    del buffer
    assert cuda.live() == (0, 0, 0)


def test_garbage_in_a_cycle_goes_in_the_right_order(cuda: FakeCuda) -> None:
    device = CudaDevice(runtime=cuda)  # type: ignore[arg-type]
    cycle: list[Any] = [device, device.allocate((3,), np.uint8), HostBuffer(device)]
    cycle[2].sized(3)
    cycle.append(cycle)
    del device, cycle
    gc.collect()
    assert cuda.live() == (0, 0, 0)


def test_pinned_memory_is_kept_and_grows(cuda: FakeCuda, device: CudaDevice) -> None:
    staging = HostBuffer(device)
    assert staging.sized(0).size == 0
    assert cuda.live()[0] == 0
    addresses = [staging.sized(n).ctypes.data for n in (1000, 10, 1024)]
    assert len(set(addresses)) == 1
    assert len(staging.sized(1025)) == 1025
    assert [b.size for b in cuda.blocks.values()] == [2048]
    cuda.fail_allocation(1)
    with pytest.raises(OutOfMemoryError):
        staging.sized(5000)
    assert len(staging.sized(5000)) == 5000


def test_absent_gpus_and_drivers(cuda: FakeCuda) -> None:
    with pytest.raises(DeviceError, match="GPU 2: found 2 GPUs here, expected an index from 0 to 1"):
        CudaDevice(2, runtime=cuda)  # type: ignore[arg-type]
    for status in (Status.cudaErrorNoDevice, Status.cudaErrorInsufficientDriver):
        cuda.broken["cudaGetDeviceCount"] = status
        with pytest.raises(
            DeviceError, match=rf"GPU 0: cannot be used: words of {status.name}.*expected an NVIDIA GPU"
        ):
            CudaDevice(runtime=cuda)  # type: ignore[arg-type]


def test_a_driver_that_cannot_be_opened(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(cuda, "cudaGetDeviceCount", fails)
    with pytest.raises(DeviceError, match=r"GPU 0: found no NVIDIA driver \(Failed to dlopen libcuda\.so\.1\)"):
        CudaDevice(runtime=cuda)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cudaMemPoolCreate", "cudaMemPoolSetAttribute", "cudaStreamCreateWithFlags"])
def test_a_device_that_is_half_made_leaves_nothing(cuda: FakeCuda, name: str) -> None:
    cuda.broken[name] = Status.cudaErrorInvalidValue
    with pytest.raises(EngineError, match=rf"GPU 0: {name} failed: words of cudaErrorInvalidValue"):
        CudaDevice(runtime=cuda)  # type: ignore[arg-type]
    gc.collect()
    assert cuda.live() == (0, 0, 0)


@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaEventSynchronize", "cudaMallocFromPoolAsync"])
def test_other_failures_of_cuda_name_the_call(load: Load, cuda: FakeCuda, name: str) -> None:
    engine = load(scaling())
    cuda.broken[name] = Status.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match=rf"GPU 0: {name} failed: words of cudaErrorIllegalAddress"):
        engine.infer(feed())
    cuda.broken.clear()
    cuda.finish()
    np.testing.assert_array_equal(engine.infer(feed())["y"], 2 * feed()["x"])


def test_what_cannot_be_freed_is_logged(cuda: FakeCuda, device: CudaDevice, caplog: pytest.LogCaptureFixture) -> None:
    buffer = device.allocate((1,), np.uint8)
    block = cuda.blocks[buffer.pointer]
    cuda.broken["cudaFreeAsync"] = Status.cudaErrorIllegalAddress
    with caplog.at_level(logging.WARNING, "esam_rt"):
        del buffer
    assert "cudaFreeAsync failed: words of cudaErrorIllegalAddress" in caplog.text
    device.synchronize()
    cuda.free(block)


@pytest.mark.parametrize("name", ["cuda.bindings.runtime", "cuda.bindings.driver"])
def test_without_cuda_python(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match="get it with: pip install cuda-python"):
        CudaDevice()


# The real libraries, if they are installed. These tests need no GPU.


def test_the_fake_has_the_names_and_arguments_of_cuda_python() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    from cuda.bindings import driver, runtime

    calls = [n for n, f in vars(FakeCuda).items() if hasattr(f, "is_call")]
    assert len(calls) > 15
    for name in calls:
        signature = (
            getattr(runtime if name.startswith("cuda") else driver, name).__doc__.partition(")")[0].partition("(")[2]
        )
        wanted = [part for part in signature.split(",") if part]
        function = getattr(FakeCuda, name).__wrapped__
        assert len(wanted) == function.__code__.co_argcount - 1, name
    for name in Status.__members__:
        assert getattr(runtime.cudaError_t, name) == Status[name]
    for name in Result.__members__:
        assert getattr(driver.CUresult, name) == Result[name]
    for name in ("cudaMemcpyKind", "cudaMemoryType", "cudaStreamCaptureMode", "cudaStreamCaptureStatus"):
        for member in getattr(FakeCuda, name):
            assert getattr(getattr(runtime, name), member.name) == member
    for name in ("cudaMemAllocationType", "cudaMemLocationType", "cudaMemPoolAttr", "cudaDeviceAttr"):
        for member, value in vars(getattr(FakeCuda, name)).items():
            assert getattr(getattr(runtime, name), member) == value
    assert runtime.cudaStreamNonBlocking == FakeCuda.cudaStreamNonBlocking
    assert runtime.cudaEventDisableTiming == FakeCuda.cudaEventDisableTiming
    assert runtime.cudaGetErrorString(runtime.cudaError_t.cudaErrorNoDevice)[1].decode()
    assert {"name", "major", "minor"} <= set(dir(runtime.cudaDeviceProp()))
    assert {"type", "device"} <= set(dir(runtime.cudaPointerAttributes()))
    assert driver.cuuint64_t(2**64 - 1)


def test_cuda_python_on_a_machine_without_gpu() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    from cuda.bindings import runtime

    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("has a GPU")
    with pytest.raises(DeviceError, match=r"GPU 0: cannot be used: .*expected an NVIDIA GPU with its driver"):
        CudaDevice()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_the_fake_has_the_names_of_the_library(name: str) -> None:
    real = pytest.importorskip(name)
    from tests.support import fake_tensorrt as fake

    pairs = [
        (fake.FakeRuntime, real.Runtime),
        (fake.FakeEngine, real.ICudaEngine),
        (fake.FakeContext, real.IExecutionContext),
        (fake.FakeRefitter, real.Refitter),
        (fake.FakeParserRefitter, real.OnnxParserRefitter),
        (fake.ILogger, real.ILogger),
    ]
    own = {"bytes_of", "run", "output_shapes", "logger", "opened"}
    for pretender, original in pairs:
        assert {n for n in vars(pretender) if not n.startswith("_")} - own <= set(dir(original))
    assert set(TENSORRT_DTYPES) <= set(real.DataType.__members__)
    assert {"INPUT", "OUTPUT"} <= set(real.TensorIOMode.__members__)
    assert {"DEVICE", "HOST"} <= set(real.TensorLocation.__members__)
    assert "USER_MANAGED" in real.ExecutionContextAllocationStrategy.__members__
    assert {"ERROR", "INTERNAL_ERROR"} <= set(real.ILogger.Severity.__members__)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_the_library_itself_refuses_a_broken_plan(
    name: str, device: CudaDevice, capfd: pytest.CaptureFixture[str]
) -> None:
    real = pytest.importorskip(name)
    with pytest.raises((ModelError, DeviceError), match=r"net: expected a TensorRT engine|cannot start"):
        TensorRTEngine("net", b"version https://git-lfs" * 9, real, device)
    assert capfd.readouterr() == ("", "")


# The whole pipeline.


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_the_pipeline_is_that_of_onnxruntime(
    library: Any, device: CudaDevice, cuda: FakeCuda, cuda_graphs: bool
) -> None:
    row = MODELS["tiny"]
    files = onnx_model(row)
    paths = (files.encoder, files.decoder, files.mask_head, files.logits)
    side = row.input_px // 4
    greatest = {"B": row.decode_batch, "M": row.decode_batch, "rows": side, "columns": side}

    def plan(path: Path) -> bytes:
        model = onnx.load(path)
        profile = {}
        for t in model.graph.input:
            extents = [d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim]
            if any(isinstance(n, str) for n in extents):
                profile[t.name] = tuple(
                    tuple(limit.get(n, n) for n in extents) for limit in (dict.fromkeys(greatest, 1), greatest)
                )
        return make_plan(model.SerializeToString(), profile)

    photo = photo_of(quadrants()[0], scale=6)
    settings = Settings().with_overrides({"prompts.coarse_side": 6, "prompts.fine_side": 8})
    with EntitySegmenter(
        Sam(row, Engines(*(OnnxRuntimeEngine(p, threads=1) for p in paths)), "0" * 64), settings=settings
    ) as segmenter:
        expected = segmenter(photo)
    engines = Engines(
        *(TensorRTEngine(p.stem, plan(p), library, device, None, cuda_graphs and p.stem == "decoder") for p in paths)
    )
    sam = Sam(row, engines, "0" * 64)
    with EntitySegmenter(sam, settings=settings) as segmenter:
        for _ in range(2):
            found = segmenter(photo)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.score, expected.score)
            np.testing.assert_array_equal(found.stage, expected.stage)
    assert expected.labels.max() > 1
    assert ("cudaGraphLaunch" in cuda.called) == cuda_graphs
    sam.close()
    device.synchronize()
    assert cuda.live()[0] == 0
