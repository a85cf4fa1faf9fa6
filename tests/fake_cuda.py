# ruff: noqa: N802, N815  (names are CUDA's)
"""CUDA's runtime as cuda-python has it, on the host: strict about order, and without a GPU.

What streams are given waits until they are synchronised. Memory that is freed is poisoned and used again. What CUDA
leaves undefined is an AssertionError here, and listed in `violations`, since finalizers swallow errors.
"""

from __future__ import annotations

import ctypes
import functools
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
    },
)
CopyKind = IntEnum("CopyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
MemoryKind = IntEnum(
    "MemoryKind", {f"cudaMemoryType{kind}": i for i, kind in enumerate(("Unregistered", "Host", "Device", "Managed"))}
)
OK = (Status.cudaSuccess,)
FRESH, FREED = 0xA5, 0xDD  # bytes of memory that nobody has written to, and that was freed


@dataclass
class Block:
    """A piece of memory. free_asked: what a stream is given from now on may not use it."""

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
    """What a stream will do, and the memory that it uses."""

    run: Callable[[], object]
    blocks: tuple[Block, ...] = ()
    context: int | None = None


@dataclass
class Stream:
    """Operations in order."""

    device: int | None
    waiting: deque[Operation] = field(default_factory=deque)


def call(values: int = 0) -> Callable[[Any], Any]:
    """A function of the runtime: one at a time, counted, and failing where the test wants it."""

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
    """The part of `cuda.bindings.runtime` that is used. broken: status by call, of those that fail."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = CopyKind
    cudaMemoryType = MemoryKind
    cudaMemAllocationType = SimpleNamespace(cudaMemAllocationTypePinned=1)
    cudaMemLocationType = SimpleNamespace(cudaMemLocationTypeDevice=1)
    cudaMemPoolAttr = SimpleNamespace(cudaMemPoolAttrReleaseThreshold=4)
    cuuint64_t = ctypes.c_uint64

    def __init__(self, gpus: int = 2) -> None:
        self.gpus = gpus
        self.lock = threading.RLock()
        self.called: deque[str] = deque(maxlen=1000)
        self.broken: dict[str, Status] = {}
        self.violations: list[str] = []
        self.blocks: dict[int, Block] = {}
        self.spare: list[Block] = []
        self.streams: dict[int, Stream] = {0: Stream(None)}
        self.pools: dict[int, int] = {}
        self.thresholds: dict[int, int] = {}
        self._next = 1000
        self._thread = threading.local()
        self._until_failure = 0

    # What tests use.
    def fail_allocation(self, nth: int) -> None:
        """Have the nth allocation from now on, of the GPU or pinned, find no memory; 0: none."""
        self._until_failure = nth

    def failure_is_ahead(self) -> bool:
        return self._until_failure > 0

    def live(self) -> tuple[int, int, int]:
        """Blocks of memory, streams and pools in use."""
        return len(self.blocks), len(self.streams) - 1, len(self.pools)

    def finish(self) -> None:
        """Have all streams do what they were given."""
        for stream in list(self.streams):
            self.cudaStreamSynchronize(stream)

    # What the fake of TensorRT uses.
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
        self._until_failure -= 1
        if self._until_failure == 0:
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
        return block

    def free(self, block: Block) -> None:
        block.fill(FREED)
        del self.blocks[block.address]
        self.spare.append(block)

    def enqueue(self, stream: int, operation: Operation) -> None:
        if stream not in self.streams:
            raise self.violated(f"stream {stream} does not exist")
        if self.streams[stream].device not in (None, self.current()):
            raise self.violated(f"stream {stream} is not of the current GPU {self.current()}")
        self.streams[stream].waiting.append(operation)

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

    @call(2)
    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        used = sum(b.size for b in self.blocks.values() if b.device == self.current())
        return Status.cudaSuccess, (1 << 30) - used, 1 << 30

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
        waiting = self.streams[stream].waiting
        while waiting:
            waiting.popleft().run()
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
        self.enqueue(stream, Operation(lambda: self.free(block)))
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
        self.free(block)
        return OK

    @call()
    def cudaMemcpyAsync(self, to: int, start: int, size: int, kind: CopyKind, stream: int) -> tuple[Any, ...]:
        uploads = kind is CopyKind.cudaMemcpyHostToDevice
        on_gpu = self.device_block(to if uploads else start, size)
        host = self.find(start if uploads else to, size)
        if host is not None and host.kind is not MemoryKind.cudaMemoryTypeHost:
            raise self.violated("memory of a GPU in place of the host's")
        if uploads and host is None:  # pageable: copied aside before the call returns
            aside = ctypes.create_string_buffer(ctypes.string_at(start, size), size)
            self.enqueue(stream, Operation(lambda: ctypes.memmove(to, aside, size), (on_gpu,)))
        else:
            blocks = (on_gpu,) if host is None else (on_gpu, host)
            self.enqueue(stream, Operation(lambda: ctypes.memmove(to, start, size), blocks))
        return OK

    @call(1)
    def cudaPointerGetAttributes(self, address: int) -> tuple[Any, ...]:
        block = self.find(address, 1)
        kind = MemoryKind.cudaMemoryTypeUnregistered if block is None else block.kind
        return Status.cudaSuccess, SimpleNamespace(type=kind, device=-2 if block is None else block.device)
