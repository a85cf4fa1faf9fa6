"""CUDA graphs of TensorRT: equal results, no memory overwritten, and the rules of capturing kept."""

from __future__ import annotations

import gc
import logging
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from esam_rt.engines.cuda.device import CudaDevice, HostBuffer
from esam_rt.engines.cuda.gpu_image import GpuImages
from esam_rt.engines.cuda.launch import CudaGraph
from esam_rt.engines.tensorrt.trt_cuda_graphs import MAX_GRAPHS
from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
from esam_rt.errors import EngineError, OutOfMemoryError
from esam_rt.sam.batching import AHEAD
from tests.engines.test_tensorrt_engine import PROFILE, feed, following, scaling
from tests.support.cuda_on_cpu import place_photo
from tests.support.fake_cuda import CaptureMode, FakeCuda, Status
from tests.support.fake_tensorrt import FakeTensorRTRTX, make_plan
from tests.support.gpu_arrays import Foreign

LAUNCH = "cudaGraphLaunch"


Load = Callable[..., TensorRTEngine]


@pytest.fixture
def load(library: Any, device: CudaDevice) -> Load:
    def load(model: bytes, cuda_graphs: bool = True) -> TensorRTEngine:
        return TensorRTEngine("net", make_plan(model, PROFILE), library, device, cuda_graphs=cuda_graphs)

    return load


def launches(cuda: FakeCuda) -> int:
    """Count the graphs launched since the last time."""
    count = cuda.called.count(LAUNCH)
    cuda.called.clear()
    return count


def test_the_third_call_is_a_graph(load: Load, cuda: FakeCuda) -> None:
    engine = load(scaling())
    for nth, scale in enumerate((2, 3, 4, 5, 6), 1):
        out = engine.infer(feed(7, scale))
        np.testing.assert_array_equal(out["y"], scale * feed(7)["x"])
        np.testing.assert_allclose(out["sine"], np.sin(scale * feed(7)["x"]), rtol=1e-5)
        assert launches(cuda) == (nth > 2), "the first is run as any, the second is captured"
    engine.close()


def test_only_where_it_is_wanted(load: Load, cuda: FakeCuda) -> None:
    engine = load(scaling(), cuda_graphs=False)
    for _ in range(4):
        engine.infer(feed(7))
    assert not {LAUNCH, "cudaStreamBeginCapture"} & set(cuda.called)


def test_other_batches_are_run_as_any(load: Load, cuda: FakeCuda) -> None:
    engine = load(scaling())
    for n, is_graph in ((64, 0), (64, 0), (64, 1), (5, 0), (64, 0), (64, 1), (6, 0), (6, 0), (6, 1), (64, 0), (64, 0)):
        np.testing.assert_array_equal(engine.infer(feed(n))["y"], 2 * feed(n)["x"])
        assert launches(cuda) == is_graph
    assert len(cuda.launchable) == 1, "the last one"


def test_memory_of_the_gpu_is_fed_and_kept(load: Load, cuda: FakeCuda) -> None:
    """Like the decoder: some inputs stay for a photo, and outputs stay on the device for the next engine."""
    first, second = load(scaling()), load(following())
    for photo in range(3):
        x = first.infer(feed(8, photo + 1), outputs_on_device=["y"])["y"]
        launches(cuda)
        for nth in range(5):
            z = second.infer({"x": x}, outputs_on_device=["z"])["z"]
            np.testing.assert_allclose(z.numpy(), np.exp((photo + 1) * feed(8)["x"]), rtol=1e-5)
            assert launches(cuda) == (nth > 1), f"photo {photo}, call {nth}"
            del z


def test_kept_outputs_are_never_overwritten(load: Load, cuda: FakeCuda) -> None:
    engine = load(scaling())
    outs: list[Any] = []
    for scale in range(1, 10):
        outs.append(engine.infer(feed(5, scale), outputs_on_device=["y"])["y"])
        if scale == 6:
            outs[-1].close()
    assert launches(cuda) == 0, "they are in the way: the first is run as any, three begin replays, the others as any"
    for scale, y in enumerate(outs, 1):
        if scale != 6:
            np.testing.assert_array_equal(y.numpy(), scale * feed(5)["x"])
    del y, outs
    for scale in (2, 3):
        np.testing.assert_array_equal(
            engine.infer(feed(5, scale), outputs_on_device=["y"])["y"].numpy(), scale * feed(5)["x"]
        )
    assert launches(cuda) == 2


def test_batches_that_wait_for_their_masks_are_replayed(load: Load, cuda: FakeCuda) -> None:
    """There are as many as batches that wait, each in memory of its own."""
    engine, behind = load(scaling()), deque[tuple[int, Any]]()
    for scale in range(1, 20):
        behind.append((scale, engine.infer(feed(5, scale), outputs_on_device=["y"])["y"]))
        assert launches(cuda) == (scale > 1 + MAX_GRAPHS), "one as any, then each memory once without a graph"
        if len(behind) > AHEAD:
            earlier, y = behind.popleft()
            np.testing.assert_array_equal(y.numpy(), earlier * feed(5)["x"])
            del y
    assert len(cuda.launchable) == MAX_GRAPHS == AHEAD + 1


def test_what_was_lent_outlives_replay_and_engine(load: Load, cuda: FakeCuda, device: CudaDevice) -> None:
    engine = load(scaling())
    engine.infer(feed(5), outputs_on_device=["y"])
    lent = engine.infer(feed(5), outputs_on_device=["y"])["y"]
    seen = device.view(lent)
    del lent
    for _ in range(3):
        engine.infer(feed(9, 3), outputs_on_device=["y"])
    assert launches(cuda) == 0, "a view counts"
    engine.close()
    np.testing.assert_array_equal(seen.numpy(), 2 * feed(5)["x"])
    seen.close()
    cuda.finish()
    assert cuda.live()[0] == 0


def test_a_graph_outlives_calls_between(load: Load, cuda: FakeCuda) -> None:
    """A call of other shapes does not change the context that was captured."""
    engine = load(scaling())
    for n in (8, 8, 8, 3, 8, 8, 8):
        np.testing.assert_array_equal(engine.infer(feed(n))["y"], 2 * feed(n)["x"])
    assert cuda.called.count("cudaGraphInstantiate") == 1
    assert launches(cuda) == 3


@pytest.mark.parametrize("keep", [[], ["sine"], ["y", "sine", "total"]])
def test_what_is_kept_decides_too(load: Load, cuda: FakeCuda, keep: list[str]) -> None:
    engine = load(scaling())
    for _ in range(3):
        engine.infer(feed(6))
    launches(cuda)
    for nth in range(3):
        out = engine.infer(feed(6, 3), outputs_on_device=keep)
        values = {name: a.numpy() if name in keep else a for name, a in out.items()}
        np.testing.assert_array_equal(values["y"], 3 * feed(6)["x"])
        assert launches(cuda) == (not keep or nth > 1)
        del out


CAPTURING = ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate")


@pytest.mark.parametrize("name", CAPTURING)
def test_a_capture_that_fails(load: Load, cuda: FakeCuda, name: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = load(scaling())
    cuda.broken[name] = Status.cudaErrorIllegalAddress
    kept = None
    for _ in range(5):
        out = engine.infer(feed(7), outputs_on_device=["sine"])
        np.testing.assert_array_equal(out["y"], 2 * feed(7)["x"])
        kept = kept or out["sine"]
    (record,) = caplog.records
    assert record.getMessage().startswith("net: CUDA graph capture failed (GPU 0: ")
    assert record.getMessage().endswith("Running without CUDA graphs.")
    assert launches(cuda) == 0
    np.testing.assert_allclose(kept.numpy(), np.sin(2 * feed(7)["x"]), rtol=1e-5)
    if name == "cudaStreamEndCapture":  # the stand-in's stream must be repaired
        cuda.broken.clear()
        for stream in cuda.streams.values():
            stream.captured = None


def test_a_library_that_cannot_be_captured(
    load: Load, cuda: FakeCuda, library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        capturing = any(stream.captured is not None for stream in cuda.streams.values())
        library.refusal = "operation not permitted when stream is capturing" if capturing else None

    library.at_launch = refuse
    engine = load(scaling())
    for _ in range(4):
        np.testing.assert_array_equal(engine.infer(feed(7))["y"], 2 * feed(7)["x"])
    (record,) = caplog.records
    assert "not permitted when stream is capturing" in record.getMessage()
    assert launches(cuda) == 0


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_no_memory_for_what_stays(load: Load, cuda: FakeCuda, nth: int, caplog: pytest.LogCaptureFixture) -> None:
    """The nth allocation: inputs, outputs, scratch memory, outputs on the device."""
    engine = load(scaling())
    engine.infer(feed(7), outputs_on_device=["y"])
    cuda.fail_allocation(nth)
    for _ in range(3):
        y = engine.infer(feed(7), outputs_on_device=["y"])["y"]
        np.testing.assert_array_equal(y.numpy(), 2 * feed(7)["x"])
        del y
    (record,) = caplog.records
    assert "out of memory" in record.getMessage()
    assert launches(cuda) == 0


def test_a_launch_that_fails_leaves_nothing(load: Load, cuda: FakeCuda, library: Any) -> None:
    engine = load(scaling())
    engine.infer(feed(7))
    cuda.finish()
    before = cuda.live()
    library.refusal = "Error Code 2: OutOfMemory"
    with pytest.raises(OutOfMemoryError):
        engine.infer(feed(7))
    library.refusal = None
    cuda.finish()
    assert cuda.live() == before
    cuda.broken[LAUNCH] = Status.cudaErrorIllegalAddress
    engine.infer(feed(7))
    with pytest.raises(EngineError, match=LAUNCH):
        engine.infer(feed(7))
    cuda.broken.clear()
    for _ in range(4):
        np.testing.assert_array_equal(engine.infer(feed(7))["y"], 2 * feed(7)["x"])
    assert launches(cuda) > 0


def test_threads_share_it(load: Load, cuda: FakeCuda) -> None:
    """No work of other engines and threads comes into a graph."""
    engine, other = load(scaling()), load(following())
    expected = engine.infer(feed(16))["sine"]

    def one(i: int) -> tuple[Any, Any]:
        other.infer({"x": feed(1 + i % 3)["x"]})
        out = engine.infer(feed(16), outputs_on_device=["y"] if i % 4 == 3 else [])
        return out["sine"], out["y"].numpy() if i % 4 == 3 else out["y"]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for sine, y in pool.map(one, range(300)):
                np.testing.assert_array_equal(sine, expected)
                np.testing.assert_array_equal(y, 2 * feed(16)["x"])
    finally:
        sys.setswitchinterval(interval)
    assert launches(cuda) > 0


def test_nothing_leaks(load: Load, cuda: FakeCuda) -> None:
    engine = load(scaling())
    for n in (9, 9, 9, 64, 64, 64):
        engine.infer(feed(n), outputs_on_device=["y"])
    cuda.finish()
    before = (*cuda.live(), len(cuda.graphs), len(cuda.launchable))
    for n in (3, 3, 3, 8, 8, 8, 64, 64, 64) * 5:
        engine.infer(feed(n), outputs_on_device=["y"])
    cuda.finish()
    assert (*cuda.live(), len(cuda.graphs), len(cuda.launchable)) == before
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="used after close"):
        engine.infer(feed())


def test_a_callers_stream_that_is_being_captured(cuda: FakeCuda, library: Any) -> None:
    """No work of ours comes into the caller's graph."""
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    device = CudaDevice(stream=stream, runtime=cuda)  # type: ignore[arg-type]
    for cuda_graphs in (True, False):
        engine = TensorRTEngine("net", make_plan(scaling(), PROFILE), library, device, cuda_graphs=cuda_graphs)
        for _ in range(3):
            engine.infer(feed(4))
        cuda.cudaStreamBeginCapture(stream, CaptureMode.cudaStreamCaptureModeThreadLocal)
        with pytest.raises(EngineError, match="GPU 0: found a stream that is being captured, expected one that runs"):
            engine.infer(feed(4))
        _, graph = cuda.cudaStreamEndCapture(stream)
        assert cuda.graphs[graph] == []
        cuda.cudaGraphDestroy(graph)
        np.testing.assert_array_equal(engine.infer(feed(4))["y"], 2 * feed(4)["x"])
        engine.close()
    del engine, device
    cuda.cudaStreamDestroy(stream)


def test_photos_while_a_callers_stream_is_being_captured(cuda: FakeCuda) -> None:
    """They are refused, and memory freed meanwhile comes into no graph."""
    cuda.kernels["place_photo"] = place_photo()
    _, stream = cuda.cudaStreamCreateWithFlags(1)
    device = CudaDevice(stream=stream, runtime=cuda)  # type: ignore[arg-type]
    photos, image = GpuImages(device), np.full((4, 5, 3), 7, np.uint8)
    memory, buffer, staging = Foreign(cuda, image), device.allocate((3,), np.uint8), HostBuffer(device)
    staging.sized(8)
    photo = photos.photo(memory)
    device.synchronize()
    cuda.cudaStreamBeginCapture(stream, CaptureMode.cudaStreamCaptureModeThreadLocal)
    with pytest.raises(EngineError, match="found a stream that is being captured"):
        photos.photo(memory)
    with pytest.raises(EngineError, match="found a stream that is being captured"):
        photo.on_host((4, 5))
    with pytest.raises(EngineError, match="found a stream that is being captured"):
        photo.on_canvas((4, 5), 8)
    buffer.close()
    staging.close()
    _, graph = cuda.cudaStreamEndCapture(stream)
    assert cuda.graphs[graph] == []
    cuda.cudaGraphDestroy(graph)
    np.testing.assert_array_equal(photo.on_host((4, 5)), image)
    device.synchronize()
    del photos, photo, device, buffer, staging
    gc.collect()
    cuda.cudaStreamDestroy(stream)


def test_tensorrt_rtx_makes_graphs_itself(cuda: FakeCuda, device: CudaDevice) -> None:
    """The context of calls that repeat is told so, and gets the same addresses each time."""
    library: Any = FakeTensorRTRTX(cuda)
    engine = TensorRTEngine("net", make_plan(scaling(), PROFILE), library, device, cuda_graphs=True)
    for scale in (2, 3, 4, 5):
        np.testing.assert_array_equal(engine.infer(feed(7, scale))["y"], scale * feed(7)["x"])
    assert [makes for makes, _ in library.launches] == [False, True, True, True]
    assert len({addresses for makes, addresses in library.launches if makes}) == 1
    assert not {LAUNCH, "cudaStreamBeginCapture"} & set(cuda.called)
    engine.close()


# The graph itself, and the stand-in.


def test_a_graph_does_what_was_enqueued(cuda: FakeCuda, device: CudaDevice) -> None:
    source, target = device.allocate((4,), np.uint8), device.allocate((4,), np.uint8)
    pinned = np.zeros(4, np.uint8)
    device.synchronize()

    def copy(stream: int) -> None:
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda.cudaMemcpyAsync(target.pointer, pinned.ctypes.data, 4, kind, stream)

    graph = CudaGraph(device, copy)
    device.synchronize()
    assert target.numpy().tolist() == [0xA5] * 4, "capturing runs nothing"
    for _ in range(2):
        graph.launch()
        assert target.numpy().tolist() == [0] * 4
    graph.close()
    graph.close()
    source.close()


def test_the_fake_minds_the_rules(cuda: FakeCuda, load: Load, device: CudaDevice) -> None:
    def expect(words: str, enqueue: Callable[[int], object]) -> None:
        with pytest.raises(AssertionError, match=words):
            CudaGraph(device, enqueue)
        assert cuda.violations.pop()

    expect("allocation during a capture", lambda stream: device.allocate((3,), np.uint8))
    engine = load(scaling(), cuda_graphs=False)
    call = engine._context.set_shapes({"x": (2, 3)})
    buffers = {name: device.allocate((64,), np.float32) for name in ("x", "scale", "y", "sine", "total")}
    addresses = {name: buffer.pointer for name, buffer in buffers.items()}
    scratch = device.allocate((call.scratch_bytes,), np.uint8)
    device.synchronize()
    expect("before the shapes were run once", lambda stream: engine._context.launch(addresses, scratch, stream))
    engine._context.launch(addresses, scratch, device.stream)
    device.synchronize()
    graph = CudaGraph(device, lambda stream: engine._context.launch(addresses, scratch, stream))
    graph.launch()
    device.synchronize()
    buffers["x"].close()
    device.synchronize()
    with pytest.raises(AssertionError, match="not memory of a GPU, or freed"):
        graph.launch()
    buffers["x"] = device.allocate((64,), np.float32)
    engine._context.set_shapes({"x": (3, 3)})
    with pytest.raises(AssertionError, match="changed after its capture"):
        graph.launch()
    cuda.violations.clear()
    graph.close()
    for buffer in (*buffers.values(), scratch):
        buffer.close()


def test_the_log_says_nothing_where_all_is_well(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        engine = load(scaling())
        for _ in range(5):
            engine.infer(feed(7))
    assert not caplog.records
