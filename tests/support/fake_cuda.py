# ruff: noqa: N802, N815  (names are CUDA's)
"""A stand-in for CUDA's runtime with cuda-python's API. It runs on the host and is strict about order.

The work of a stream waits until the stream is synchronized. Freed memory is poisoned and reused. Undefined behavior is
an AssertionError. It is also listed in `violations`, since finalizers swallow errors.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

Status = IntEnum(
    "Status",
    {
        "cudaSuccess": 0,
        "cudaErrorInvalidValue": 1,
        "cudaErrorMemoryAllocation": 2,
        "cudaErrorInsufficientDriver": 35,
        "cudaErrorNoDevice": 100,
        "cudaErrorInvalidDevice": 101,
        "cudaErrorInvalidResourceHandle": 400,
        "cudaErrorIllegalAddress": 700,
        "cudaErrorStreamCaptureUnsupported": 900,
    },
)
Result = IntEnum(
    "Result",
    {"CUDA_SUCCESS": 0, "CUDA_ERROR_OUT_OF_MEMORY": 2, "CUDA_ERROR_INVALID_PTX": 218, "CUDA_ERROR_NOT_FOUND": 500},
)
CopyKind = IntEnum("CopyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
CaptureMode = IntEnum(
    "CaptureMode", {f"cudaStreamCaptureMode{m}": i for i, m in enumerate(("Global", "ThreadLocal", "Relaxed"))}
)
CaptureStatus = IntEnum(
    "CaptureStatus", {f"cudaStreamCaptureStatus{s}": i for i, s in enumerate(("None", "Active", "Invalidated"))}
)
MemoryKind = IntEnum(
    "MemoryKind", {f"cudaMemoryType{kind}": i for i, kind in enumerate(("Unregistered", "Host", "Device", "Managed"))}
)
OK = (Status.cudaSuccess,)
FRESH, FREED = 0xA5, 0xDD  # bytes of new memory and of freed memory


@dataclass
class Block:
    """A block of memory. free_asked: later work of a stream must not use it."""

    address: int
    size: int
    kind: MemoryKind
    device: int
    storage: Any
    free_asked: bool = False

    def fill(self, byte: int) -> None:
        ctypes.memset(self.address, byte, self.size)


@dataclass
class Operation:
    """Work of a stream and the memory that it uses. stays: returns if the object that enqueued it is unchanged."""

    run: Callable[[], object]
    blocks: tuple[Block, ...] = ()
    context: int | None = None
    stays: Callable[[], bool] = lambda: True


@dataclass
class Stream:
    """Work in order. captured: the work of a graph. captured_by: the thread that captures."""

    device: int | None
    waiting: deque[Operation] = field(default_factory=deque)
    captured: list[Operation] | None = None
    captured_by: int = 0


def call(values: int = 0) -> Callable[[Any], Any]:
    """Make a function of the runtime: it holds the lock, is counted, and fails if the test asks for it."""

    def wrap(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(self: FakeCuda, *args: Any) -> tuple[Any, ...]:
            with self.lock:
                self.called.append(function.__name__)
                if status := self.broken.get(function.__name__):
                    return (status, *[None] * values)
                return function(self, *args)

        wrapper.is_call = True
        return wrapper

    return wrap


class FakeCuda:
    """The part of `cuda.bindings.runtime` that the package uses, with GPUs of `memory` bytes.

    broken: status of each function that must fail. kernels: function that runs each kernel, by name. peak: largest
    number of bytes of GPU memory in use. Memory that a stream was told to free does not count, since a pool gives it to
    later work of that stream.
    """

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = CopyKind
    cudaMemoryType = MemoryKind
    cudaStreamCaptureMode = CaptureMode
    cudaStreamCaptureStatus = CaptureStatus
    cudaMemAllocationType = SimpleNamespace(cudaMemAllocationTypePinned=1)
    cudaMemLocationType = SimpleNamespace(cudaMemLocationTypeDevice=1)
    cudaMemPoolAttr = SimpleNamespace(cudaMemPoolAttrReleaseThreshold=4)
    cudaDeviceAttr = SimpleNamespace(cudaDevAttrMemoryPoolsSupported=115)
    cuuint64_t = ctypes.c_uint64

    def __init__(self, gpus: int = 2, memory: int = 1 << 30) -> None:
        self.gpus, self.memory, self.peak = gpus, memory, 0
        self.lock = threading.RLock()
        self.called: deque[str] = deque(maxlen=1000)
        self.broken: dict[str, Status] = {}
        self.violations: list[str] = []
        self.blocks: dict[int, Block] = {}
        self.spare: list[Block] = []
        default = Stream(None)
        self.streams: dict[int, Stream] = {0: default, 1: default, 2: default}
        self.has_pools = True
        self.pools: dict[int, int] = {}
        self.thresholds: dict[int, int] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.launchable: dict[int, list[Operation]] = {}
        self.events: dict[int, tuple[threading.Event, int]] = {}
        self.modules: dict[int, bytes] = {}
        self.kernels: dict[str, Callable[..., object]] = {}
        self._next = 1000
        self._thread = threading.local()
        self._until_failure = 0

    # For tests.
    def fail_allocation(self, nth: int) -> None:
        """Make the nth allocation from now on fail, on the GPU or pinned. 0: no allocation."""
        self._until_failure = nth

    def failure_is_ahead(self) -> bool:
        return self._until_failure > 0

    def live(self) -> tuple[int, int, int]:
        """Count the blocks of memory, streams and pools in use."""
        return len(self.blocks), len(self.streams) - 3, len(self.pools)

    def check_end(self) -> None:
        """Check the end of a test: no violation, and no leak. Pytest may still hold a device with its streams, pool and
        module."""
        gc.collect()
        self.finish()
        assert not self.violations
        assert self.live() in ((0, 0, 0), (0, 2, 1))
        assert not self.events
        assert not self.graphs
        assert not self.launchable
        assert len(self.modules) <= 1

    def finish(self) -> None:
        """Do the work of all streams."""
        for stream in list(self.streams):
            self.cudaStreamSynchronize(stream)

    # For the stand-in of TensorRT.
    def violated(self, what: str) -> AssertionError:
        self.violations.append(what)
        return AssertionError(what)

    def find(self, address: int, size: int) -> Block | None:
        return next(
            (b for b in self.blocks.values() if b.address <= address and address + size <= b.address + b.size), None
        )

    def device_block(self, address: int, size: int) -> Block:
        block = self.find(address, size)
        if block is None or block.free_asked or block.kind is not MemoryKind.cudaMemoryTypeDevice:
            raise self.violated(f"{size} bytes at {address:#x}: not memory of a GPU, or freed")
        return block

    def allocate(self, size: int, kind: MemoryKind, device: int) -> Block | None:
        if size <= 0:
            raise self.violated(f"allocation of {size} bytes")
        self.check_no_capture("allocation")
        self._until_failure -= 1
        on_gpu = kind is MemoryKind.cudaMemoryTypeDevice
        if self._until_failure == 0 or (on_gpu and self.used(device) + size > self.memory):
            return None
        block = next((b for b in self.spare if (b.size, b.kind, b.device) == (size, kind, device)), None)
        if block is None:
            storage = (ctypes.c_ubyte * (size + 256))()
            block = Block(-(-ctypes.addressof(storage) // 256) * 256, size, kind, device, storage)
        else:
            self.spare.remove(block)
            block.free_asked = False
        block.fill(FRESH)
        self.blocks[block.address] = block
        self.peak = max(self.peak, self.used(device))
        return block

    def used(self, device: int) -> int:
        """Bytes of a GPU's memory in use."""
        on_gpu = (b for b in self.blocks.values() if b.kind is MemoryKind.cudaMemoryTypeDevice)
        return sum(b.size for b in on_gpu if b.device == device and not b.free_asked)

    def free(self, block: Block) -> None:
        block.fill(FREED)
        del self.blocks[block.address]
        self.spare.append(block)

    def enqueue(self, stream: int, operation: Operation) -> None:
        if stream not in self.streams:
            raise self.violated(f"stream {stream} does not exist")
        if self.streams[stream].device not in (None, self.current()):
            raise self.violated(f"stream {stream} is not of the current GPU {self.current()}")
        if (captured := self.streams[stream].captured) is None:
            self.streams[stream].waiting.append(operation)
        elif self.streams[stream].captured_by != threading.get_ident():
            raise self.violated(f"stream {stream}: work of another thread came into a graph")
        else:
            captured.append(operation)

    def is_capturing(self, stream: int) -> bool:
        return self.streams[stream].captured is not None

    def check_no_capture(self, what: str) -> None:
        """Fail if this thread is capturing."""
        is_relaxed = getattr(self._thread, "mode", None) is CaptureMode.cudaStreamCaptureModeRelaxed
        mine = (s for s in self.streams.values() if s.captured_by == threading.get_ident())
        if not is_relaxed and any(s.captured is not None for s in mine):
            raise self.violated(f"{what} during a capture")

    def current(self) -> int:
        return getattr(self._thread, "index", 0)

    def handle(self) -> int:
        self._next += 1
        return self._next

    def uses(self, test: Callable[[Operation], bool]) -> bool:
        return any(test(operation) for stream in self.streams.values() for operation in list(stream.waiting))

    # The runtime.
    def cudaGetErrorString(self, status: Status) -> tuple[Any, ...]:
        return Status.cudaSuccess, f"words of {status.name}".encode()

    @call(1)
    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return Status.cudaSuccess, self.gpus

    @call(1)
    def cudaGetDevice(self) -> tuple[Any, ...]:
        return Status.cudaSuccess, self.current()

    @call()
    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self._thread.index = device
        return OK

    @call(1)
    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return Status.cudaSuccess, SimpleNamespace(name=b"Fake GPU\0\0", major=8, minor=6 + device)

    @call(1)
    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:
        assert attribute == self.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported
        return Status.cudaSuccess, int(self.has_pools)

    @call(1)
    def cudaStreamGetDevice(self, stream: int) -> tuple[Any, ...]:
        return Status.cudaSuccess, self.streams[stream].device

    @call(2)
    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return Status.cudaSuccess, self.memory - self.used(self.current()), self.memory

    def cudaMemPoolProps(self) -> SimpleNamespace:
        return SimpleNamespace(allocType=None, location=SimpleNamespace(type=None, id=None))

    @call(1)
    def cudaMemPoolCreate(self, properties: Any) -> tuple[Any, ...]:
        if (properties.allocType, properties.location.type) != (1, 1):
            return Status.cudaErrorInvalidValue, None
        self.pools[pool := self.handle()] = properties.location.id
        return Status.cudaSuccess, pool

    @call()
    def cudaMemPoolSetAttribute(self, pool: int, attribute: int, value: Any) -> tuple[Any, ...]:
        assert attribute == self.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        self.thresholds[pool] = value.value
        return OK

    @call()
    def cudaMemPoolDestroy(self, pool: int) -> tuple[Any, ...]:
        return OK if self.pools.pop(pool, None) is not None else (Status.cudaErrorInvalidValue,)

    @call(1)
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        self.streams[stream := self.handle()] = Stream(self.current())
        return Status.cudaSuccess, stream

    @call()
    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        if stream not in self.streams:
            raise self.violated(f"stream {stream} destroyed twice")
        self.cudaStreamSynchronize(stream)
        del self.streams[stream]
        return OK

    @call()
    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if stream not in self.streams:
            return (Status.cudaErrorInvalidResourceHandle,)
        if self.is_capturing(stream):
            return (Status.cudaErrorStreamCaptureUnsupported,)
        waiting = self.streams[stream].waiting
        while waiting:
            waiting.popleft().run()
        return OK

    @call()
    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        done, recorded = self.events[event]
        if self.is_capturing(recorded) and not self.is_capturing(stream):
            raise self.violated(f"stream {stream} drawn into a capture by an event")
        self.enqueue(stream, Operation(lambda: self.run_until(recorded, done)))
        return OK

    @call(1)
    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaEventDisableTiming
        self.events[event := self.handle()] = (threading.Event(), -1)
        return Status.cudaSuccess, event

    @call()
    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        del self.events[event]
        return OK

    @call()
    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        done = threading.Event()
        self.events[event] = (done, stream)
        self.enqueue(stream, Operation(done.set))
        return OK

    @call()
    def cudaEventSynchronize(self, event: int) -> tuple[Any, ...]:
        done, stream = self.events[event]
        self.run_until(stream, done)
        return OK

    def run_until(self, stream: int, done: threading.Event) -> None:
        """Do the work of a stream up to an event, and no more."""
        while not done.is_set():
            self.streams[stream].waiting.popleft().run()

    @call(1)
    def cudaStreamIsCapturing(self, stream: int) -> tuple[Any, ...]:
        status = "Active" if self.is_capturing(stream) else "None"
        return Status.cudaSuccess, CaptureStatus[f"cudaStreamCaptureStatus{status}"]

    @call(1)
    def cudaThreadExchangeStreamCaptureMode(self, mode: CaptureMode) -> tuple[Any, ...]:
        before = getattr(self._thread, "mode", CaptureMode.cudaStreamCaptureModeGlobal)
        self._thread.mode = mode
        return Status.cudaSuccess, before

    @call()
    def cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> tuple[Any, ...]:
        if mode is CaptureMode.cudaStreamCaptureModeGlobal:
            raise self.violated("a capture that allocations of other threads would break")
        if self.is_capturing(stream):
            raise self.violated(f"stream {stream} captured twice")
        self.streams[stream].captured, self.streams[stream].captured_by = [], threading.get_ident()
        return OK

    @call(1)
    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        captured, self.streams[stream].captured = self.streams[stream].captured, None
        assert captured is not None
        self.graphs[graph := self.handle()] = captured
        return Status.cudaSuccess, graph

    @call(1)
    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        self.launchable[made := self.handle()] = self.graphs[graph]
        return Status.cudaSuccess, made

    @call()
    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.graphs[graph]
        return OK

    @call()
    def cudaGraphExecDestroy(self, launchable: int) -> tuple[Any, ...]:
        del self.launchable[launchable]
        return OK

    @call()
    def cudaGraphLaunch(self, launchable: int, stream: int) -> tuple[Any, ...]:
        for operation in self.launchable[launchable]:
            if not operation.stays():
                raise self.violated("a graph of a context that was changed after its capture, or is gone")
            for block in operation.blocks:
                self.device_block(block.address, block.size)
            self.enqueue(stream, operation)
        return OK

    @call(1)
    def cudaMallocFromPoolAsync(self, size: int, pool: int, stream: int) -> tuple[Any, ...]:
        block = self.allocate(size, MemoryKind.cudaMemoryTypeDevice, self.pools[pool])
        if block is None:
            return Status.cudaErrorMemoryAllocation, None
        self.enqueue(stream, Operation(lambda: None, (block,)))
        return Status.cudaSuccess, block.address

    @call()
    def cudaFreeAsync(self, address: int, stream: int) -> tuple[Any, ...]:
        block = self.blocks.get(address)
        if block is None or block.free_asked or block.kind is not MemoryKind.cudaMemoryTypeDevice:
            raise self.violated(f"{address:#x} freed twice")
        if self.is_capturing(stream):
            raise self.violated("memory given back during a capture")

        def free() -> None:
            if self.uses(lambda operation: block in operation.blocks):
                raise self.violated(f"{address:#x} freed while another stream uses it")
            self.free(block)

        self.enqueue(stream, Operation(free))
        block.free_asked = True
        return OK

    @call(1)
    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        block = self.allocate(size, MemoryKind.cudaMemoryTypeHost, self.current())
        return (Status.cudaErrorMemoryAllocation, None) if block is None else (Status.cudaSuccess, block.address)

    @call()
    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        block = self.blocks.get(address)
        if block is None or block.kind is not MemoryKind.cudaMemoryTypeHost:
            raise self.violated(f"pinned {address:#x} freed twice")
        if self.uses(lambda operation: block in operation.blocks):
            raise self.violated(f"pinned {address:#x} freed while a copy needs it")
        self.check_no_capture("giving back pinned memory")
        self.free(block)
        return OK

    @call()
    def cudaMemcpyAsync(self, to: int, start: int, size: int, kind: CopyKind, stream: int) -> tuple[Any, ...]:
        uploads = kind is CopyKind.cudaMemcpyHostToDevice
        on_gpu = self.device_block(to if uploads else start, size)
        host = self.find(start if uploads else to, size)
        if host is not None and host.kind is not MemoryKind.cudaMemoryTypeHost:
            raise self.violated("memory of a GPU in place of the host's")
        if uploads and host is None:  # pageable memory is copied before the call returns
            aside = ctypes.create_string_buffer(ctypes.string_at(start, size), size)
            self.enqueue(stream, Operation(lambda: ctypes.memmove(to, aside, size), (on_gpu,)))
        else:
            blocks = (on_gpu,) if host is None else (on_gpu, host)
            self.enqueue(stream, Operation(lambda: ctypes.memmove(to, start, size), blocks))
        return OK

    # The driver.
    def cuGetErrorString(self, status: Result) -> tuple[Any, ...]:
        return Result.CUDA_SUCCESS, f"words of {status.name}".encode()

    @call(1)
    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        self.check_context()
        if b".entry" not in image:
            return Result.CUDA_ERROR_INVALID_PTX, None
        self.modules[module := self.handle()] = image
        return Result.CUDA_SUCCESS, module

    @call()
    def cuModuleUnload(self, module: int) -> tuple[Any, ...]:
        self.finish()
        del self.modules[module]
        return (Result.CUDA_SUCCESS,)

    @call(1)
    def cuModuleGetFunction(self, module: int, name: bytes) -> tuple[Any, ...]:
        if b".entry " + name + b"(" not in self.modules[module]:
            return Result.CUDA_ERROR_NOT_FOUND, None
        return Result.CUDA_SUCCESS, (module, name.decode())

    @call()
    def cuLaunchKernel(
        self, f: tuple[int, str], gx: int, gy: int, gz: int, bx: int, by: int, bz: int,
        shared: int, stream: int, parameters: tuple[tuple[Any, ...], tuple[Any, ...]], extra: int,
    ) -> tuple[Any, ...]:  # fmt: skip
        self.check_context()
        assert f[0] in self.modules
        assert (gz, bz, shared, extra) == (1, 1, 0, 0)
        run, (values, types) = self.kernels[f[1]], parameters
        pointers = (v for v, kind in zip(values, types, strict=True) if kind is ctypes.c_void_p)
        blocks = tuple(self.device_block(pointer, 1) for pointer in pointers)
        self.enqueue(stream, Operation(lambda: run(gx, gy, bx, by, *values), blocks))
        return (Result.CUDA_SUCCESS,)

    def check_context(self) -> None:
        """Fail if the thread has no context. Unlike the runtime, the driver does not set one up."""
        if not hasattr(self._thread, "index"):
            raise self.violated("a call of the driver in a thread without a context")

    @call(1)
    def cudaPointerGetAttributes(self, address: int) -> tuple[Any, ...]:
        block = self.find(address, 1)
        kind = MemoryKind.cudaMemoryTypeUnregistered if block is None else block.kind
        return Status.cudaSuccess, SimpleNamespace(type=kind, device=-2 if block is None else block.device)
