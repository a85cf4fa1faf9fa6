"""A GPU's memory, streams, events, kernels and graphs, as engines need them."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from esam_rt.engines.cuda.api import Calls, name_and_capability
from esam_rt.engines.cuda.array_interface import DEFAULT_STREAMS, GpuArray, gpu_array, stream_address
from esam_rt.errors import DeviceError, EngineError, EsamError, InputError

NEVER = 2**64 - 1  # bytes of unused memory at which a pool gives some back


class CudaDevice:
    """A GPU and the one stream on which all engines of a model work: what one leaves, the next uses without waiting.

    index: of the GPU as CUDA counts them. stream: a caller's `cudaStream_t`, as `stream_address` takes it; it is held,
    and never destroyed here. Default, and where it is one of CUDA's default streams: an own one, which waits for the
    caller's whenever an array is taken (work on those makes the whole GPU wait, and they cannot be captured). runtime:
    in place of cuda-python's. The GPU's memory comes from an own pool, which keeps what is free for later calls and
    gives all back when the device and its buffers are garbage. Threads may share it.
    Errors: MissingDependencyError without cuda-python, DeviceError without driver or GPU, or one without memory pools,
    InputError for a stream of another GPU.
    """

    def __init__(self, index: int = 0, stream: Any = None, runtime: ModuleType | None = None) -> None:
        self.index = index
        self._calls = calls = Calls(runtime, index)
        self.name, self.capability = name_and_capability(index, calls.runtime)
        cuda = calls.runtime
        if not calls("cudaDeviceGetAttribute", cuda.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported, index):
            raise DeviceError(
                f"GPU {index}: {self.name} has no memory pools, as some virtual GPUs and Windows' TCC mode; expected a "
                "GPU with them. Use another, or device cpu."
            )
        self._callers, given = stream, None if stream is None else stream_address(stream)
        with calls.current():
            pool = cuda.cudaMemPoolProps()
            pool.allocType = cuda.cudaMemAllocationType.cudaMemAllocationTypePinned
            pool.location.type = cuda.cudaMemLocationType.cudaMemLocationTypeDevice
            pool.location.id = index
            self._pool = calls("cudaMemPoolCreate", pool)
            weakref.finalize(self, calls.release, "cudaMemPoolDestroy", self._pool)
            # Else every synchronisation gives the free memory back, and the next call pays for it again.
            threshold = cuda.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
            calls("cudaMemPoolSetAttribute", self._pool, threshold, cuda.cuuint64_t(NEVER))
            self._copies = self._new_stream()
            self._default = given if given in DEFAULT_STREAMS else None
            self._is_callers = given is not None and self._default is None
            self.stream = given if given is not None and self._is_callers else self._new_stream()
            of_stream = index
            if self._is_callers and hasattr(cuda, "cudaStreamGetDevice"):
                with suppress(EngineError):  # a driver of before 12.8 cannot tell
                    of_stream = calls("cudaStreamGetDevice", self.stream)
            if of_stream != index:
                raise InputError(f"Stream: found one of GPU {of_stream}, expected one of GPU {index}.")

    def _new_stream(self) -> int:
        stream = int(self._calls("cudaStreamCreateWithFlags", self._calls.runtime.cudaStreamNonBlocking))
        weakref.finalize(self, self._calls.release, "cudaStreamDestroy", stream)
        return stream

    def free_bytes(self) -> int:
        """Memory of the GPU that no process uses; the pool's own reserve counts as used."""
        with self._calls.current():
            return int(self._calls("cudaMemGetInfo")[0])

    def current(self) -> AbstractContextManager[None]:
        """Context in which the GPU is this thread's current one."""
        return self._calls.current()

    def synchronise(self) -> None:
        """Wait until the stream, and what is being copied, have done all they were given. EngineError if some of it
        failed."""
        with self._calls.current():
            self._calls("cudaStreamSynchronize", self.stream)
            self._calls("cudaStreamSynchronize", self._copies)

    def check_is_running(self) -> None:
        """EngineError if the stream is a caller's that is being captured: who waits for results must not be."""
        if self._is_callers:
            self._check_is_running(self.stream)

    def _check_is_running(self, stream: int) -> None:
        if self._is_captured(stream):
            raise EngineError(
                f"GPU {self.index}: found a stream that is being captured, expected one that runs what it is given."
            )

    def _is_captured(self, stream: int) -> bool:
        status = self._calls("cudaStreamIsCapturing", stream)
        return bool(status != self._calls.runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone)

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceBuffer:
        """Memory of unknown content, aligned to 256 bytes. OutOfMemoryError if there is none."""
        dtype = np.dtype(dtype)
        size = max(1, math.prod(shape) * dtype.itemsize)
        with self._calls.current():
            pointer = self._calls("cudaMallocFromPoolAsync", size, self._pool, self.stream)
        buffer = DeviceBuffer(self, pointer, dtype, shape)
        buffer.finalizer = weakref.finalize(buffer, self._free, pointer)
        return buffer

    def _free(self, pointer: int) -> None:
        """Free in the stream's order, hence after what was given to the stream before. Finalizers that hold this method
        keep the device, so that the stream goes last. A stream that is being captured has nothing of ours to do:
        every call waits for its end."""
        stream = self.stream
        if self._is_callers:
            with suppress(EsamError), self._calls.current():  # of a stream that is gone the release tells
                stream = self._copies if self._is_captured(stream) else stream
        self._calls.release("cudaFreeAsync", pointer, stream)

    def view(self, array: Any) -> DeviceBuffer:
        """Memory of an array of another library, in place; see `located`. InputError unless it is C-contiguous."""
        found = self.located(array)
        found.check_is_contiguous()
        return DeviceBuffer(self, found.pointer, found.dtype, found.shape, owner=found.owner)

    def located(self, array: Any) -> GpuArray:
        """Where an array of another library lies, by DLPack or `__cuda_array_interface__`; it must be on this GPU,
        InputError else.

        The device's stream waits for what is still to be written to it; where the array names no stream, as PyTorch's
        `__cuda_array_interface__`, for the stream that the device was given alone. EngineError as of
        `check_is_running`.
        """
        self.check_is_running()
        found = gpu_array(array, self.stream)
        if math.prod(found.shape):
            memory = self._calls("cudaPointerGetAttributes", found.pointer)
            kinds = self._calls.runtime.cudaMemoryType
            if memory.type not in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged) or (
                memory.type == kinds.cudaMemoryTypeDevice and memory.device != self.index
            ):
                raise InputError(f"GPU array: expected memory of GPU {self.index}, found it elsewhere; copy it there.")
        for stream in (found.stream, self._default):
            if stream is not None and stream != self.stream:
                self._wait_for(stream)
        return found

    def _wait_for(self, stream: int) -> None:
        """Have the device's stream wait for what another was given."""
        with self._calls.current():
            self._check_is_running(stream)
            given = CudaEvent(self, stream)
            self._calls("cudaStreamWaitEvent", self.stream, given.handle, 0)

    def upload(self, target: DeviceBuffer, source: NDArray[np.uint8]) -> None:
        """Have the stream copy bytes of a `HostBuffer` to the start of `target`."""
        kind = self._calls.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        with self._calls.current():
            self._calls("cudaMemcpyAsync", target.pointer, source.ctypes.data, source.nbytes, kind, self.stream)

    def fetched(self, target: NDArray[Any] | None = None, source: DeviceBuffer | None = None) -> CudaEvent:
        """Copy the start of `source` to the host, once the stream has done what it was given so far; wait for the event
        before either is used.

        Copies have a stream of their own: the GPU computes meanwhile what other threads give it. Without arguments
        nothing is copied.
        """
        calls, kind = self._calls, self._calls.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        computed = CudaEvent(self, self.stream)
        if target is None or source is None:
            return computed
        with calls.current():
            calls("cudaStreamWaitEvent", self._copies, computed.handle, 0)
            calls("cudaMemcpyAsync", target.ctypes.data, source.pointer, target.nbytes, kind, self._copies)
        return CudaEvent(self, self._copies)


class DeviceBuffer:
    """An array in a GPU's memory, C-contiguous; see `CudaDevice.allocate` and `view`.

    Its memory is freed when it is closed or garbage, after what was given to the stream before. CuPy, Numba and PyTorch
    read it in place (`__cuda_array_interface__`); PyTorch does not wait for the stream: `device.synchronise()` first.
    """

    def __init__(
        self, device: CudaDevice, pointer: int, dtype: np.dtype[Any], shape: tuple[int, ...], owner: Any = None
    ) -> None:
        self.device, self.dtype, self.shape = device, dtype, shape
        self.finalizer: weakref.finalize[Any, Any] | None = None
        self._pointer: int | None = pointer
        self._owner = owner

    @property
    def pointer(self) -> int:
        """Address on the GPU. EngineError after close()."""
        if self._pointer is None:
            raise EngineError(f"GPU {self.device.index}: array used after close().")
        return self._pointer

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.device.stream,
        }

    def numpy(self) -> NDArray[Any]:
        """A copy on the host."""
        result = np.empty(self.shape, self.dtype)
        if result.size:
            self.device.fetched(result, self).wait()
        return result

    def close(self) -> None:
        """Free the memory, which no call may be using; closing twice does nothing."""
        self._pointer = self._owner = None
        if self.finalizer is not None:
            self.finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class CudaEvent:
    """The point that a stream has been given work to."""

    def __init__(self, device: CudaDevice, stream: int) -> None:
        self._calls = calls = device._calls
        with calls.current():
            self.handle = calls("cudaEventCreateWithFlags", calls.runtime.cudaEventDisableTiming)
            weakref.finalize(self, calls.release, "cudaEventDestroy", self.handle)
            calls("cudaEventRecord", self.handle, stream)

    def wait(self) -> None:
        """Wait until the stream has come there, whatever it was given since. EngineError if some work failed."""
        with self._calls.current():
            self._calls("cudaEventSynchronize", self.handle)


class CudaKernel:
    """A kernel in PTX. ptx: its text, which the driver compiles. name: of the kernel in it."""

    def __init__(self, device: CudaDevice, ptx: bytes, name: str) -> None:
        self._device, self._calls = device, device._calls
        with self._calls.current_for_driver():
            module = self._calls("cuModuleLoadData", ptx)
            weakref.finalize(self, self._calls.release, "cuModuleUnload", module)
            self._function = self._calls("cuModuleGetFunction", module, name.encode())

    def launch(self, grid_xy: tuple[int, int], block_xy: tuple[int, int], arguments: Sequence[Any]) -> None:
        """Give the device's stream a launch of `grid_xy` blocks of `block_xy` threads. arguments: of ctypes."""
        values, types = tuple(a.value for a in arguments), tuple(map(type, arguments))
        with self._calls.current_for_driver():
            self._calls(
                "cuLaunchKernel", self._function, *grid_xy, 1, *block_xy, 1, 0, self._device.stream, (values, types), 0
            )


class CudaGraph:
    """Work that a stream is given once and then launched many times, as a whole.

    enqueue: gives the work to the stream of an address; it waits for nothing and allocates nothing. What the work uses
    must stay where it is, and whoever enqueued it must not change, as long as the graph is launched. EngineError or
    OutOfMemoryError where it cannot be captured.
    """

    def __init__(self, device: CudaDevice, enqueue: Callable[[int], object]) -> None:
        self._device, self._calls = device, device._calls
        calls, cuda = self._calls, self._calls.runtime
        with calls.current(), ExitStack() as at_end:
            # An own stream: what other threads give to the device's meanwhile belongs to no graph.
            stream = int(calls("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking))
            at_end.callback(calls.release, "cudaStreamDestroy", stream)
            calls("cudaStreamBeginCapture", stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
            try:
                enqueue(stream)
            finally:
                graph = calls("cudaStreamEndCapture", stream)
                at_end.callback(calls.release, "cudaGraphDestroy", graph)
            self._launchable = calls("cudaGraphInstantiate", graph, 0)
        self._finalizer = weakref.finalize(self, calls.release, "cudaGraphExecDestroy", self._launchable)

    def launch(self) -> None:
        """Give the work to the device's stream."""
        with self._calls.current():
            self._calls("cudaGraphLaunch", self._launchable, self._device.stream)

    def close(self) -> None:
        """Forget the work, once the stream has done it; closing twice does nothing."""
        self._finalizer()


class HostBuffer:
    """Pinned memory of the host, between which and the GPU copies run at full speed; kept, and grown as needed."""

    def __init__(self, device: CudaDevice) -> None:
        self._calls = device._calls
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def sized(self, size: int) -> NDArray[np.uint8]:
        """uint8 [size] of unknown content, the same memory at each call. OutOfMemoryError if there is none."""
        if size > len(self._bytes):
            self.close()
            capacity = 1 << (size - 1).bit_length()
            with self._calls.current():
                pointer = self._calls("cudaMallocHost", capacity)
            self._finalizer = weakref.finalize(self, self._calls.release, "cudaFreeHost", pointer)
            self._bytes = np.ctypeslib.as_array((ctypes.c_ubyte * capacity).from_address(pointer))
        return self._bytes[:size]

    def close(self) -> None:
        """Free the memory, once no copy needs it; closing twice does nothing."""
        self._bytes = np.empty(0, np.uint8)
        if self._finalizer is not None:
            self._finalizer()
