"""ONNX Runtime on a GPU, with a strict stand-in: CUDA graphs, arrays and streams of others, TensorRT's provider.

The oracle is the CPU engine.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import logging
import os
import stat
import struct
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from esam_rt import EntitySegmenter, Settings
from esam_rt.engines import TensorSpec
from esam_rt.engines.dtypes import ONNXRUNTIME_DTYPES
from esam_rt.engines.onnxruntime import providers
from esam_rt.engines.onnxruntime.capture_lock import CAPTURE_LOCK
from esam_rt.engines.onnxruntime.cuda_libraries import linked_to, missing_cuda, missing_tensorrt, tensorrt_version
from esam_rt.engines.onnxruntime.ort_cuda_graphs import copy_model, element_type
from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.engines.onnxruntime.providers import gpu_arena
from esam_rt.errors import (
    DeviceError,
    EngineError,
    InputError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    SettingsError,
)
from esam_rt.loading import doctor
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.library_caches import provider_cache, prune
from esam_rt.loading.loader import load_sam
from esam_rt.loading.onnxruntime_loader import gpu_images
from esam_rt.sam.point_grids import point_grid
from tests.loading.test_memory_budget import EVERYTHING
from tests.support.cuda_on_cpu import place_photo
from tests.support.events import Events
from tests.support.fake_cuda import FakeCuda, Operation
from tests.support.fake_onnxruntime import (
    CPU,
    CUDA,
    TENSORRT,
    FakeBinding,
    FakeGpu,
    FakeSession,
    FakeValue,
    RealSession,
)
from tests.support.gpu_arrays import ByDlpack, Foreign
from tests.support.scene import photo_of


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests, so that `tiny` is exported once."""
    folder = tmp_path_factory.getbasetemp() / "cache of test_onnxruntime_gpu"
    monkeypatch.setenv("ESAM_RT_CACHE", str(folder))
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU. The test fails if something undefined was done."""
    monkeypatch.setattr(providers, "missing_tensorrt", lambda library: None)
    gpu = FakeGpu().install(monkeypatch)
    yield gpu
    assert gpu.violations == []
    gpu.cuda.check_end()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """sum = side + points · scale [B, 3]; kept = 2 · sum; `side` belongs to the photo."""
    f = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["points", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "side"], ["sum"]),
            helper.make_node("Add", ["sum", "sum"], ["kept"]),
        ],
        "graph",
        [
            helper.make_tensor_value_info("side", f, [1, 3]),
            helper.make_tensor_value_info("points", f, ["B", 3]),
            helper.make_tensor_value_info("scale", f, []),
        ],
        [helper.make_tensor_value_info("sum", f, ["B", 3]), helper.make_tensor_value_info("kept", f, ["B", 3])],
    )
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def feed(n: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng((n, seed))
    return {
        "side": rng.random((1, 3), np.float32),
        "points": rng.random((n, 3), np.float32),
        "scale": np.array(rng.random(), np.float32),
    }


def expected(fed: dict[str, Any]) -> dict[str, Any]:
    total = fed["points"] * fed["scale"] + fed["side"]
    return {"sum": total, "kept": 2 * total}


def check(engine: OnnxRuntimeEngine, fed: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """Compare one call with NumPy; return the outputs."""
    out, want = engine.infer(fed, keep), expected(fed)
    for name in keep:
        with CAPTURE_LOCK.shared():  # engines do this themselves, a copy by a test does not
            np.testing.assert_array_equal(out[name].value.numpy(), want.pop(name))
    for name, array in want.items():
        np.testing.assert_array_equal(out[name], array)
    return out


# The stand-in.


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (FakeSession, onnxruntime.InferenceSession),
        (FakeBinding, onnxruntime.IOBinding),
        (FakeValue, onnxruntime.OrtValue),
    ],
)
def test_the_stand_in_has_the_librarys_names(fake: type, real: type) -> None:
    """Also the parameters, in their order. Unused parameters at the end are left out."""
    for name, method in vars(fake).items():
        if inspect.isfunction(method) and not name.startswith("_") and name != "write":
            own = list(inspect.signature(method).parameters)
            known = list(inspect.signature(getattr(real, name)).parameters)[: len(own)]
            assert [{"np_arr": "data"}.get(p, p) for p in known] == own  # its name before 1.31
    made = inspect.signature(onnxruntime.InferenceSession).parameters
    assert list(made)[:3] == ["path_or_bytes", "sess_options", "providers"]
    made = inspect.signature(onnxruntime.OrtValue.ortvalue_from_shape_and_type).parameters
    assert list(made)[:4] == ["shape", "element_type", "device_type", "device_id"]


@pytest.mark.parametrize("kind", ONNXRUNTIME_DTYPES)
def test_the_library_takes_dtypes_as_they_are_given(kind: str) -> None:
    dtype = np.dtype(ONNXRUNTIME_DTYPES[kind])
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([2, 3], element_type(dtype), "cpu", 0)
    assert (value.shape(), value.data_type()) == ([2, 3], kind)
    session = onnxruntime.InferenceSession(copy_model([TensorSpec("x", dtype, (None, 3))]), providers=[CPU])
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, element_type(dtype), [2, 3], value.data_ptr())
    target = onnxruntime.OrtValue.ortvalue_from_shape_and_type([2, 3], element_type(dtype), "cpu", 0)
    binding.bind_ortvalue_output("x copied", target)
    content = bytes(range(6 * dtype.itemsize)) if dtype.name != "bool" else bytes(6)
    ctypes.memmove(value.data_ptr(), content, len(content))
    session.run_with_iobinding(binding)
    assert ctypes.string_at(target.data_ptr(), len(content)) == content
    assert target.data_ptr() != value.data_ptr()


def test_values_of_the_library_are_updated_in_place() -> None:
    for content in (np.array(3, np.float32), np.arange(6).reshape(2, 3)):
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(content.shape), content.dtype.type, "cpu", 0)
        before = value.data_ptr()
        value.update_inplace(content)
        assert value.data_ptr() == before
        np.testing.assert_array_equal(value.numpy(), content)


def test_a_capture_is_alone(gpu: FakeGpu) -> None:
    """The stand-in detects a violation."""
    with gpu.used(), ThreadPoolExecutor(1) as pool, pytest.raises(AssertionError, match="while others use the GPU"):
        pool.submit(gpu.used(capturing=True).__enter__).result()
    gpu.violations.clear()


# CUDA graphs.


def test_calls_that_repeat_are_replayed(gpu: FakeGpu, path: Path) -> None:
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        for i in range(6):
            check(engine, feed(4, i))
        assert (gpu.captures, gpu.replays) == (1, 4)
        check(engine, feed(3))
        check(engine, feed(4, 9))
        assert (gpu.captures, gpu.replays) == (1, 5), "another shape between is no matter"


def test_of_several_shapes_the_largest_is_captured(gpu: FakeGpu, path: Path) -> None:
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        for n in (2, 2, 2, 5, 5, 5, 3, 3, 3, 5):
            check(engine, feed(n, n))
        assert gpu.captures == 2
        assert gpu.sessions[-1].replays == 2, "of 5: the third, and the one after 3"


def test_without_graphs_nothing_is_captured(gpu: FakeGpu, path: Path) -> None:
    with OnnxRuntimeEngine(path, "cuda") as engine:
        for _ in range(3):
            check(engine, feed(4))
    (session,) = gpu.sessions
    assert session.provider_options == {CUDA: {"use_tf32": "0"}}


def test_what_is_kept_is_not_overwritten(gpu: FakeGpu, path: Path) -> None:
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        held = [(engine.infer(feed(4, i), ["kept"])["kept"], feed(4, i)) for i in range(6)]
        for kept, fed in held:
            np.testing.assert_array_equal(kept.value.numpy(), expected(fed)["kept"])
            assert (kept.shape, kept.dtype) == ((4, 3), np.float32)
        assert gpu.replays == 0, "the first replay's memory is in our hands"
        del kept, held
        gc.collect()
        for i in range(3):
            check(engine, feed(4, i), ("kept",))
        assert gpu.replays == 3
        held = [engine.infer(feed(4, 7), ["kept"])["kept"]]
    np.testing.assert_array_equal(held[0].value.numpy(), expected(feed(4, 7))["kept"])


def test_kept_inputs_are_copied_once_a_photo(gpu: FakeGpu, path: Path) -> None:
    with OnnxRuntimeEngine(path, "cuda") as first, OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        photos = [first.infer(feed(1, i), ["kept"])["kept"] for i in range(2)]
        sides = [expected(feed(1, i))["kept"] for i in range(2)]
        for photo in (0, 0, 0, 0, 1, 1, 0):
            fed = feed(4, 5)
            out = engine.infer({**fed, "side": photos[photo]}, ["kept"])
            np.testing.assert_array_equal(out["sum"], expected({**fed, "side": sides[photo]})["sum"])
            del out
        (copier,) = (s for s in gpu.sessions if [t.name for t in s.get_outputs()] == ["side copied"])
        assert (gpu.captures, copier.runs) == (1, 3)


def test_arrays_of_others_are_copied_each_time(gpu: FakeGpu, path: Path) -> None:
    """They may change between calls."""
    fed = feed(4)
    array = Foreign(gpu.cuda, fed["points"])
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        for i in range(5):
            array.content[...] = i
            out = engine.infer({**fed, "points": array})
            np.testing.assert_array_equal(out["sum"], expected({**fed, "points": array.content})["sum"])
        assert gpu.replays == 3


def test_threads_share_a_replaying_engine(gpu: FakeGpu, path: Path) -> None:
    def call(i: int) -> None:
        for j in range(12):
            check(engines[(i + j) % 2], feed(4 if j < 9 else 6, 100 * i + j), ("kept",) if i % 2 else ())

    with (
        OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as one,
        OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as two,
        ThreadPoolExecutor(6) as pool,
    ):
        engines = (one, two)
        list(pool.map(call, range(12)))
        for engine in engines:
            for i in range(3):
                check(engine, feed(6, i))
        assert gpu.captures >= 2
        assert gpu.replays >= 2


def test_graphs_that_cannot_be_captured(gpu: FakeGpu, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gpu.uncapturable = True
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine, caplog.at_level(logging.WARNING):
        for i in range(4):
            check(engine, feed(4, i))
    (record,) = caplog.records
    assert "graph.onnx: CUDA graph capture failed" in record.getMessage()
    assert "graph capture" in record.getMessage()


def test_memory_that_ends_while_capturing(gpu: FakeGpu, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine, caplog.at_level(logging.WARNING):
        check(engine, feed(4))
        gpu.memory_ends = True
        check(engine, feed(4))
        check(engine, feed(4))
    (record,) = caplog.records
    assert "Failed to allocate memory" in record.getMessage()


def test_memory_that_ends_frees_the_graph(gpu: FakeGpu, path: Path) -> None:
    """A smaller batch gets the memory, and is captured in turn."""
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        for _ in range(3):
            check(engine, feed(4))
        gpu.memory_ends = True
        with pytest.raises(OutOfMemoryError, match=r"graph\.onnx: out of memory"):
            engine.infer(feed(8))
        for _ in range(3):
            check(engine, feed(2))
        assert (gpu.captures, gpu.sessions[-1].replays) == (2, 1)


def test_an_interrupt_leaves_no_half_made_graph(gpu: FakeGpu, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        for _ in range(3):
            check(engine, feed(4))
        with monkeypatch.context() as patch:
            patch.setattr(Future, "result", interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.infer(feed(4, 1))
        for i in range(3):
            check(engine, feed(4, i))
        assert gpu.captures == 2, "that of the first may still be running"


def test_graphs_where_the_file_is_gone(gpu: FakeGpu, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with OnnxRuntimeEngine(path, "cuda", cuda_graphs=True) as engine:
        path.unlink()
        for i in range(3):
            check(engine, feed(4, i))
    assert "CUDA graph capture failed" in caplog.text


def test_closed(gpu: FakeGpu, path: Path) -> None:
    engine = OnnxRuntimeEngine(path, "cuda", cuda_graphs=True)
    for _ in range(3):
        check(engine, feed(4))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="used after close"):
        engine.infer(feed(4))
    assert not [t for t in threading.enumerate() if t.name.startswith("esam-rt-graphs")]


@pytest.mark.parametrize("device", ["cpu", "tensorrt"])
def test_graphs_are_for_cuda(path: Path, device: str) -> None:
    with pytest.raises(SettingsError, match=f"CUDA graphs are for device cuda, found device {device}"):
        OnnxRuntimeEngine(path, device, cuda_graphs=True)


@pytest.mark.parametrize(("device", "cuda_graphs"), [("cuda", False), ("cuda", True), ("tensorrt", False)])
def test_a_photo_on_a_gpu(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, device: str, cuda_graphs: bool) -> None:
    sides = {"prompts.coarse_side": 16, "prompts.fine_side": 18, "prompts.strategy": "grid"}  # full batches
    settings = Settings().with_overrides(sides)
    photos = [photo_of(np.arange(side * side).reshape(side, side), scale=64 // side) for side in (2, 4)]
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", RealSession)
        with EntitySegmenter("tiny", settings=settings) as segment:
            wanted = [segment(photo).labels for photo in photos]
    with EntitySegmenter(
        "tiny", settings=settings, execution=ExecutionConfig(device=device, cuda_graphs=cuda_graphs)
    ) as segment:
        assert segment.model_info()["device"] == device
        for photo, labels in zip(photos, wanted, strict=True):
            np.testing.assert_array_equal(segment(photo).labels, labels)
    assert (gpu.captures == 1 and gpu.replays > 4) if cuda_graphs else gpu.captures == 0


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_photo_in_a_gpus_memory(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, cuda_graphs: bool) -> None:
    """It is scaled there for the encoder, and the encoder's stream waits for it."""
    gpu.cuda.kernels["place_photo"] = place_photo()
    settings = Settings().with_overrides({"prompts.coarse_side": 6, "prompts.fine_side": 8})
    photo = photo_of(np.arange(16).reshape(4, 4), scale=150)
    with EntitySegmenter(
        "tiny", settings=settings, execution=ExecutionConfig(device="cuda", cuda_graphs=cuda_graphs)
    ) as segment:
        wanted = segment(photo)
        for array in (Foreign(gpu.cuda, photo), ByDlpack(Foreign(gpu.cuda, photo))):
            found = segment(array)
            assert (found.labels == wanted.labels).mean() > 0.97, "but for what a level of a pixel changes"
    assert wanted.labels.max() > 1


def test_a_budget_is_the_limit_of_one_arena(gpu: FakeGpu) -> None:
    """All networks share it. Batches that do not fit are halved, also for all later photos."""
    sam = load_sam("tiny", ExecutionConfig(device="cuda", memory_mb=300))
    assert gpu.arenas == [300 << 20, 1 << 20], "the environment holds the last one for ever"
    assert [session.arena_bytes for session in gpu.sessions] == [300 << 20] * 4
    assert [session.in_arena for session in gpu.sessions] == [True] * 4
    image = photo_of(np.arange(4).reshape(2, 2), scale=32)
    photo = sam.encode(image)
    gpu.memory_ends = True
    found = sam.decode(photo, point_grid(8), 0, EVERYTHING)
    assert sam.batch_size == 32
    sam_of_one_batch = load_sam("tiny", ExecutionConfig(device="cuda"))
    wanted = sam_of_one_batch.decode(sam_of_one_batch.encode(image), point_grid(8), 0, EVERYTHING)
    sam_of_one_batch.close()
    np.testing.assert_array_equal(found.bits, wanted.bits)
    sam.close()
    assert [session.in_arena for session in gpu.sessions[4:]] == [False] * 4


def test_a_budget_without_room_for_the_weights(path: Path, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("bfc_arena.cc:360 Available memory of 0 is smaller than requested bytes of 256\n")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with (
        gpu_arena(1),
        pytest.raises(OutOfMemoryError, match=r"the memory budget does not hold its weights; al"),
    ):
        OnnxRuntimeEngine(path, "cuda", in_arena=True)


def test_what_scales_photos_is_made_beside_no_capture(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    load = gpu.cuda.cuModuleLoadData

    def counted(image: bytes) -> Any:
        made.append(CAPTURE_LOCK.shared_holders)
        return load(image)

    monkeypatch.setattr(gpu.cuda, "cuModuleLoadData", counted)
    photos = gpu_images(None)
    assert made == [1]
    with photos.using():
        assert CAPTURE_LOCK.shared_holders == 1


def test_no_part_of_a_graph_runs_on_the_cpu_unseen(gpu: FakeGpu) -> None:
    load_sam("tiny", ExecutionConfig(device="cuda")).close()
    assert [session.is_whole for session in gpu.sessions] == [True, True, False, True], "masks compute shapes there"
    gpu.uncapturable = True  # nodes on the CPU
    with pytest.raises(
        EngineError, match=r"encoder\.onnx: ONNX Runtime .* would run a part of it on the CPU; update it"
    ):
        load_sam("tiny", ExecutionConfig(device="cuda"))


# Arrays and streams of others.


def test_arrays_of_others_are_read_in_place(gpu: FakeGpu, path: Path) -> None:
    fed = feed(4)
    arrays = {name: Foreign(gpu.cuda, array) for name, array in fed.items()}
    with OnnxRuntimeEngine(path, "cuda") as engine:
        np.testing.assert_array_equal(engine.infer(arrays)["sum"], expected(fed)["sum"])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strides": (4, 16)}, InputError, r"GPU array: found shape \[4, 3\] with strides \[4, 16\]"),
        ({"index": 1}, InputError, "expected memory of GPU 0, found it elsewhere"),
        ({"data": (64, False)}, InputError, "expected memory of GPU 0, found it elsewhere"),
    ],
)
def test_arrays_that_are_not_taken(
    gpu: FakeGpu, path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    array = Foreign(gpu.cuda, feed(4)["points"], **changes)
    with OnnxRuntimeEngine(path, "cuda") as engine, pytest.raises(error, match=message):
        engine.infer({**feed(4), "points": array})


def test_a_part_of_a_greater_array_is_not_taken(gpu: FakeGpu, path: Path) -> None:
    array = Foreign(gpu.cuda, feed(5)["points"])
    array.interface |= {"shape": (4, 3), "data": (array.block.address + 12, False)}
    with (
        OnnxRuntimeEngine(path, "cuda") as engine,
        pytest.raises(EngineError, match="input points: expected GPU memory aligned to 256 bytes"),
    ):
        engine.infer({**feed(4), "points": array})


def test_arrays_of_another_dtype_or_shape(gpu: FakeGpu, path: Path) -> None:
    with OnnxRuntimeEngine(path, "cuda") as engine:
        for array in (feed(4)["points"].astype(np.float64), feed(4)["points"][:, :2].copy()):
            with pytest.raises(EngineError, match="input points: expected float32 any×3, got"):
                engine.infer({**feed(4), "points": Foreign(gpu.cuda, array)})


def test_arrays_on_a_gpu_are_not_for_the_cpu(path: Path) -> None:
    with (
        OnnxRuntimeEngine(path) as engine,
        pytest.raises(EngineError, match="points: expected a NumPy array or an output of this backend, got Foreign"),
    ):
        engine.infer({**feed(4), "points": Foreign(FakeCuda(), feed(4)["points"])})


def test_streams_that_arrays_name_are_waited_for(gpu: FakeGpu, path: Path) -> None:
    cuda, written = gpu.cuda, []
    (_, own), (_, other) = cuda.cudaStreamCreateWithFlags(1), cuda.cudaStreamCreateWithFlags(1)
    for given in (own, None):
        cuda.enqueue(other, Operation(lambda: written.append(True)))
        with OnnxRuntimeEngine(path, "cuda", stream=given) as engine:
            engine.infer({**feed(4), "points": Foreign(cuda, feed(4)["points"], stream=other)})
    assert len(written) == 2
    for stream in (own, other):
        cuda.cudaStreamDestroy(stream)


def test_what_dlpack_passes_on_is_there_when_it_is_read(gpu: FakeGpu, path: Path) -> None:
    fed = feed(4)
    with OnnxRuntimeEngine(path, "cuda") as engine:
        late = ByDlpack(Foreign(gpu.cuda, fed["points"]))
        np.testing.assert_array_equal(engine.infer({**fed, "points": late})["sum"], expected(fed)["sum"])


@pytest.mark.parametrize(("stream", "address"), [(None, None), (0xABC, "2748"), (0, None), (2, None)])
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_callers_stream(gpu: FakeGpu, path: Path, device: str, stream: int | None, address: str | None) -> None:
    """Default streams are not passed on; see `CudaDevice`."""
    OnnxRuntimeEngine(path, device, stream=stream).close()
    for options in gpu.sessions[0].provider_options.values():
        assert options.get("user_compute_stream") == address


def test_a_stream_is_for_a_gpu(path: Path) -> None:
    with pytest.raises(SettingsError, match="A CUDA stream is for a GPU, found device cpu"):
        OnnxRuntimeEngine(path, stream=5)


# TensorRT's provider.


def test_engines_are_built_once_for_all_batches(gpu: FakeGpu, path: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with OnnxRuntimeEngine(path, "tensorrt", cache=tmp_path, max_batch=6) as engine:
            for n in (6, 1, 3):
                check(engine, feed(n), ("kept",))
    assert gpu.engines_built == ["graph"]
    options = gpu.sessions[0].provider_options
    assert list(options) == [TENSORRT, CUDA]
    assert {name: value for name, value in options[TENSORRT].items() if "profile" in name} == {
        "trt_profile_min_shapes": "points:1x3",
        "trt_profile_opt_shapes": "points:6x3",
        "trt_profile_max_shapes": "points:6x3",
    }


def test_tf32_is_off_while_engines_are_built(gpu: FakeGpu, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    build = FakeSession._build
    monkeypatch.setattr(
        FakeSession, "_build", lambda *a: (seen.append(os.environ.get("NVIDIA_TF32_OVERRIDE")), build(*a))[1]
    )
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    OnnxRuntimeEngine(path, "tensorrt").close()
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    OnnxRuntimeEngine(path, "tensorrt").close()
    assert seen == ["0", "1"], "what the user says holds"
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"


@pytest.mark.parametrize("missing", [(TENSORRT,), (TENSORRT, CUDA)])
def test_a_provider_that_does_not_start(gpu: FakeGpu, path: Path, missing: tuple[str, ...]) -> None:
    gpu.missing = missing
    with pytest.raises(DeviceError, match=f"Device tensorrt: ONNX Runtime could not start {TENSORRT}.* TensorRT"):
        OnnxRuntimeEngine(path, "tensorrt")


def test_cuda_behind_tensorrt_must_start_too(gpu: FakeGpu, path: Path) -> None:
    gpu.missing = (CUDA,)
    with pytest.raises(DeviceError, match=f"could not start {CUDA}"):
        OnnxRuntimeEngine(path, "tensorrt")


def test_a_library_without_the_provider(gpu: FakeGpu, path: Path) -> None:
    gpu.providers = ("CPUExecutionProvider",)
    with pytest.raises(DeviceError, match=rf"Device tensorrt: .* but not {TENSORRT}; .*esam-rt\[gpu\]"):
        OnnxRuntimeEngine(path, "tensorrt")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ("Please install TensorRT libraries as mentioned", DeviceError, "could not start Tensorrt"),
        (
            "User needs to provide all the dynamic shape inputs",
            EngineError,
            "TensorRT supports only parts of this graph",
        ),
        ("CUDA failure 2: out of memory", OutOfMemoryError, "not enough memory on device tensorrt"),
        ("CUDA failure 35: CUDA driver version is insufficient", DeviceError, "could not start Tensorrt"),
        ("Available memory of 0 is smaller than requested bytes of 256", OutOfMemoryError, "not enough memory"),
        ("Protobuf parsing failed", ModelError, "expected a whole ONNX model"),
    ],
)
def test_what_the_library_says(
    gpu: FakeGpu, path: Path, monkeypatch: pytest.MonkeyPatch, words: str, error: type[Exception], message: str
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(error, match=message):
        OnnxRuntimeEngine(path, "tensorrt")


def linked(*names: str) -> bytes:
    """Make an ELF file that is linked to these libraries. It has only the parts that are read."""
    strings = b"\0" + b"\0".join(name.encode() for name in names) + b"\0"
    starts = [strings.index(b"\0" + name.encode() + b"\0") + 1 for name in names]
    base, at = 0x7000, 64 + 2 * 56
    entries = [*((1, start) for start in starts), (5, base), (10, len(strings)), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    segments = [(1, base, at + len(dynamic), len(strings)), (2, 0x9000, at, len(dynamic))]
    header = b"\x7fELF\2\1".ljust(32, b"\0") + struct.pack("<Q", 64) + bytes(14) + struct.pack("<HH", 56, 2)
    table = b"".join(struct.pack("<IIQQQQQQ", kind, 0, of, v, v, n, n, 1) for kind, v, of, n in segments)
    return header.ljust(64, b"\0") + table + dynamic + strings


@pytest.mark.skipif(sys.platform != "linux", reason="needs an ELF file")
def test_what_a_library_is_linked_to(tmp_path: Path) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as real

    assert {"libc.so.6", "libstdc++.so.6"} <= set(linked_to(Path(real.__file__)))
    assert all(".so." in name for name in linked_to(Path(real.__file__)))
    (tmp_path / "made.so").write_bytes(linked("libb.so.2", "liba.so.1"))
    assert linked_to(tmp_path / "made.so") == ["libb.so.2", "liba.so.1"]
    whole = (tmp_path / "made.so").read_bytes()
    for content in (b"", b"text", whole[:70], whole[:200], whole[:64] + bytes(200)):
        (tmp_path / "broken.so").write_bytes(content)
        assert linked_to(tmp_path / "broken.so") == []
    assert linked_to(tmp_path / "gone.so") == []


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The TensorRT provider's file of an ONNX Runtime that needs a missing library."""
    (tmp_path / "wheel" / "capi").mkdir(parents=True)
    provider = tmp_path / "wheel" / "capi" / "libonnxruntime_providers_tensorrt.so"
    provider.write_bytes(linked("libnvinfer_plugin.so.987", "libnvinfer.so.987", "libcudart.so.13"))
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "wheel" / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA])
    return provider


def test_tensorrt_that_is_missing(wheel: Path, path: Path) -> None:
    with pytest.raises(
        MissingDependencyError,
        match=r"needs TensorRT 987, libnvinfer\.so\.987 not found; .*'tensorrt-cu13>=987,<988'",
    ):
        OnnxRuntimeEngine(path, "tensorrt")


@pytest.mark.parametrize("content", [linked("libc.so.6"), None])
def test_a_provider_that_does_not_say_what_it_wants(wheel: Path, content: bytes | None) -> None:
    wheel.unlink() if content is None else wheel.write_bytes(content)
    assert missing_tensorrt(onnxruntime) is None


def test_a_library_that_is_there(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", loaded.append)
    assert missing_tensorrt(onnxruntime) is None
    assert loaded == ["libnvinfer.so.987"]


def test_cuda_that_is_missing(wheel: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All libraries that the provider is linked to, without the driver; and cuDNN, which new ones are not linked to."""
    content = linked("libcudart.so.13", "libcublasLt.so.13", "libcuda.so.1", "libc.so.6")
    wheel.with_name("libonnxruntime_providers_cuda.so").write_bytes(content)
    there = {"libcudart.so.13", "libc.so.6"}

    def load(name: str) -> None:
        if name not in there:
            raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    words = r"needs libcublasLt\.so\.13, libcudnn\.so\.9, not found; .*onnxruntime-gpu\[cuda,cudnn\]"
    with pytest.raises(MissingDependencyError, match=f"Device cuda: .*{words}"):
        OnnxRuntimeEngine(path, "cuda")
    found = next(doctor.provider_findings())
    assert (found.name, found.state) == ("onnxruntime on device cuda", doctor.State.ABSENT)
    there |= {"libcublasLt.so.13", "libcudnn.so.9"}
    assert missing_cuda(onnxruntime) is None


def test_the_version_of_tensorrt(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __init__(self, name: str) -> None:
            assert name == "libnvinfer.so.987"

        def getInferLibVersion(self) -> int:  # noqa: N802
            return 987_0500

    assert tensorrt_version(onnxruntime) == "", "it is not to be found"
    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert tensorrt_version(onnxruntime) == "9870500"


def test_doctor_says_what_tensorrts_provider_lacks(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_cuda, found = doctor.provider_findings()
    assert of_cuda.state is doctor.State.OK
    assert (found.state, found.remedy) == (doctor.State.ABSENT, "pip install 'tensorrt-cu13>=987,<988'")
    assert "needs TensorRT 987" in found.found
    wheel.unlink()
    _, found = doctor.provider_findings()
    assert found.state is doctor.State.OK
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    assert [f.name for f in doctor.provider_findings()] == ["onnxruntime on device cuda"]


def test_the_folder_of_engines_is_ours_alone(path: Path, tmp_path: Path) -> None:
    folder = provider_cache("1.99", path, 64, ("101500", "A40", "sm_86"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert provider_cache("1.99", path, 64, ("101500", "A40", "sm_86")) == folder
    assert provider_cache("1.99", path, 32, ("101500", "A40", "sm_86")) != folder
    assert provider_cache("1.99", path, 64, ("101600", "A40", "sm_86")) != folder
    folder.chmod(0o770)
    with pytest.raises(OutputError, match="expected a folder that nobody else can write to or read"):
        provider_cache("1.99", path, 64, ("101500", "A40", "sm_86"))
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(OutputError, match="nobody else can write"):
        provider_cache("1.99", path, 64, ("101500", "A40", "sm_86"))
    folder.unlink()
    path.write_bytes(path.read_bytes() + b"\x72\x00")
    assert provider_cache("1.99", path, 64, ("101500", "A40", "sm_86")) != folder, "other weights are another graph"


def test_folders_of_other_versions_are_pruned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    old, now = (provider_cache(version, path, 64, ()) for version in ("0.1", onnxruntime.__version__))
    (old / "graph.engine").write_bytes(b"1234")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        assert prune(everything=False, dry_run=False) == [], "another environment has it"
    assert prune(everything=False, dry_run=False) == [(old.parent, 4)]
    assert now.exists()
    assert not old.exists()


def test_building_is_told(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESAM_RT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"found no engine of encoder\.onnx, expected one. Run without --no-build"):
        load_sam("tiny", ExecutionConfig(device="tensorrt", build=False))
    for expected_steps in (["encoder.engine", "decoder.engine", "mask_head.engine", "logits.engine"], []):
        told = Events()
        load_sam("tiny", ExecutionConfig(device="tensorrt"), on_event=told).close()
        assert told.built == expected_steps
    assert len(gpu.engines_built) == 4
    load_sam("tiny", ExecutionConfig(device="tensorrt", build=False)).close()
