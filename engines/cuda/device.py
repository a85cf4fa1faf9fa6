"""A GPU's memory, streams and events."""

from __future__ import annotations

import ctypes
import math
import weakref
from contextlib import AbstractContextManager, suppress
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from esam_rt.engines.cuda.api import Calls, name_and_capability
from esam_rt.engines.cuda.array_interface import DEFAULT_STREAMS, GpuArray, gpu_array, stream_address
from esam_rt.errors import DeviceError, EngineError, EsamError, InputError

KEEP_ALL = 2**64 - 1  # bytes of free memory that a pool keeps


class CudaDevice:
    """A GPU, and the one stream on which all engines of a model work. Threads may share it.

    With one stream an engine uses the outputs of another one without waiting for them.

    The GPU's memory comes from a pool of this object. The pool keeps free memory for later calls. It returns all memory
    when the device and its buffers are garbage.

    The device does not work on CUDA's default streams: they make the whole GPU wait, and cannot be captured. If the
    caller's stream is a default stream, the device has a stream of its own, and waits for the caller's whenever it gets
    an array.

    Args:
        index: Index of the GPU, as CUDA counts.
        stream: The caller's stream, as ``stream_address`` accepts it. The object is kept and the stream is never
            destroyed here. Default: a new stream.
        runtime: Stand-in for cuda-python, for tests.

    Attributes:
        index: Index of the GPU.
        name: Name of the GPU.
        capability: Compute capability, as ``sm_86``.
        stream: Address of the stream.
        calls: Checked calls of CUDA for this GPU.

    Raises:
        MissingDependencyError: cuda-python is missing.
        DeviceError: There is no driver or no such GPU, or the GPU has no memory pools.
        InputError: The stream belongs to another GPU.
    """

    def __init__(self, index: int = 0, stream: Any = None, runtime: ModuleType | None = None) -> None:
        self.index = index
        self.calls = calls = Calls(runtime, index)
        self.name, self.capability = name_and_capability(index, calls.runtime)
        cuda = calls.runtime
        if not calls("cudaDeviceGetAttribute", cuda.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported, index):
            raise DeviceError(
                f"GPU {index}: {self.name} has no memory pools, as some virtual GPUs and Windows' TCC mode; expected a "
                "GPU with memory pools. Use another GPU, or device cpu."
            )
        self._owner = stream
        given = None if stream is None else stream_address(stream)
        with calls.current():
            pool = cuda.cudaMemPoolProps()
            pool.allocType = cuda.cudaMemAllocationType.cudaMemAllocationTypePinned
            pool.location.type = cuda.cudaMemLocationType.cudaMemLocationTypeDevice
            pool.location.id = index
            self._pool = calls("cudaMemPoolCreate", pool)
            weakref.finalize(self, calls.release, "cudaMemPoolDestroy", self._pool)
            # By default each synchronization returns the free memory, and the next call allocates it again.
            threshold = cuda.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
            calls("cudaMemPoolSetAttribute", self._pool, threshold, cuda.cuuint64_t(KEEP_ALL))
            self._copy_stream = self._new_stream()
            self._default_stream = given if given in DEFAULT_STREAMS else None
            self._is_callers_stream = given is not None and self._default_stream is None
            self.stream = given if given is not None and self._is_callers_stream else self._new_stream()
            self._check_stream_is_of_this_gpu()

    def _check_stream_is_of_this_gpu(self) -> None:
        stream_index = self.index
        if self._is_callers_stream and hasattr(self.calls.runtime, "cudaStreamGetDevice"):
            with suppress(EngineError):  # drivers before 12.8 cannot tell
                stream_index = self.calls("cudaStreamGetDevice", self.stream)
        if stream_index != self.index:
            raise InputError(f"Stream: found one of GPU {stream_index}, expected one of GPU {self.index}.")

    def _new_stream(self) -> int:
        stream = int(self.calls("cudaStreamCreateWithFlags", self.calls.runtime.cudaStreamNonBlocking))
        weakref.finalize(self, self.calls.release, "cudaStreamDestroy", stream)
        return stream

    def free_bytes(self) -> int:
        """Read the GPU memory that no process uses.

        Returns:
            Bytes. Free memory in the pool counts as used.
        """
        with self.calls.current():
            return int(self.calls("cudaMemGetInfo")[0])

    def current(self) -> AbstractContextManager[None]:
        """Make this GPU the current one of the thread.

        Returns:
            A context manager. At its end the previous GPU is current again.
        """
        return self.calls.current()

    def synchronize(self) -> None:
        """Wait for all work of the stream and for all copies.

        Raises:
            EngineError: Some work failed.
        """
        with self.calls.current():
            self.calls("cudaStreamSynchronize", self.stream)
            self.calls("cudaStreamSynchronize", self._copy_stream)

    def check_is_running(self) -> None:
        """Check that the caller is not capturing the stream. The caller could not wait for results then.

        Raises:
            EngineError: The stream is being captured.
        """
        if self._is_callers_stream:
            self._check_is_running(self.stream)

    def _check_is_running(self, stream: int) -> None:
        if self._is_captured(stream):
            raise EngineError(
                f"GPU {self.index}: found a stream that is being captured, expected one that runs what it is given."
            )

    def _is_captured(self, stream: int) -> bool:
        status = self.calls("cudaStreamIsCapturing", stream)
        return bool(status != self.calls.runtime.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone)

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceBuffer:
        """Allocate memory with unknown content, aligned to 256 bytes.

        Args:
            shape: Dimensions.
            dtype: NumPy dtype.

        Returns:
            The memory.

        Raises:
            OutOfMemoryError: The GPU has too little memory.
        """
        dtype = np.dtype(dtype)
        size = max(1, math.prod(shape) * dtype.itemsize)
        with self.calls.current():
            pointer = self.calls("cudaMallocFromPoolAsync", size, self._pool, self.stream)
        buffer = DeviceBuffer(self, pointer, dtype, shape)
        buffer.finalizer = weakref.finalize(buffer, self._free, pointer)
        return buffer

    def _free(self, pointer: int) -> None:
        """Free memory after all work that the stream has now.

        Finalizers hold this method and so the device: the stream is destroyed last. If the caller captures the stream,
        it has no work of ours, since every call waits for its end.
        """
        stream = self.stream
        if self._is_callers_stream:
            with suppress(EsamError), self.calls.current():  # the release below logs an error of a destroyed stream
                stream = self._copy_stream if self._is_captured(stream) else stream
        self.calls.release("cudaFreeAsync", pointer, stream)

    def view(self, array: Any) -> DeviceBuffer:
        """View an array of another library in place; see ``locate``.

        Args:
            array: Array for which ``is_gpu_array`` is true.

        Returns:
            A buffer on the array's memory. It keeps the array.

        Raises:
            InputError: The array is not C-contiguous, or lies on another GPU.
            EngineError: The stream is being captured.
        """
        found = self.locate(array)
        found.check_is_contiguous()
        return DeviceBuffer(self, found.pointer, found.dtype, found.shape, owner=found.owner)

    def locate(self, array: Any) -> GpuArray:
        """Find out where an array of another library lies. The device's stream waits until the array is written.

        If the array names no stream (``__cuda_array_interface__`` of PyTorch), the device's stream waits only for the
        default stream that the caller gave to the device, if any.

        Args:
            array: Array for which ``is_gpu_array`` is true.

        Returns:
            The array's place in memory.

        Raises:
            InputError: The array lies on another GPU.
            EngineError: The stream is being captured.
        """
        self.check_is_running()
        found = gpu_array(array, self.stream)
        if math.prod(found.shape):
            memory = self.calls("cudaPointerGetAttributes", found.pointer)
            kinds = self.calls.runtime.cudaMemoryType
            if memory.type not in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged) or (
                memory.type == kinds.cudaMemoryTypeDevice and memory.device != self.index
            ):
                raise InputError(f"GPU array: expected memory of GPU {self.index}, found it elsewhere; copy it there.")
        for stream in (found.stream, self._default_stream):
            if stream is not None and stream != self.stream:
                self._wait_for(stream)
        return found

    def _wait_for(self, stream: int) -> None:
        """Make the device's stream wait for the present work of another one."""
        with self.calls.current():
            self._check_is_running(stream)
            event = CudaEvent(self, stream)
            self.calls("cudaStreamWaitEvent", self.stream, event.handle, 0)

    def upload(self, target: DeviceBuffer, source: NDArray[np.uint8]) -> None:
        """Copy from the host to the GPU, in the order of the stream.

        Args:
            target: Memory on the GPU.
            source: Bytes of a ``HostBuffer``. They are copied to the start of ``target``.
        """
        kind = self.calls.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        with self.calls.current():
            self.calls("cudaMemcpyAsync", target.pointer, source.ctypes.data, source.nbytes, kind, self.stream)

    def record_event(self) -> CudaEvent:
        """Mark the present end of the stream's work.

        Returns:
            The event. Wait for it to wait for this work and no later work.
        """
        return CudaEvent(self, self.stream)

    def download(self, target: NDArray[Any], source: DeviceBuffer) -> CudaEvent:
        """Copy from the GPU to the host, after the present work of the stream.

        Copies have a stream of their own: the GPU computes other threads' work meanwhile.

        Args:
            target: Array on the host. The start of ``source`` is copied.
            source: Memory on the GPU. It must not be freed before the event.

        Returns:
            The event at the end of the copy. Wait for it before either array is used.
        """
        calls, kind = self.calls, self.calls.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        computed = self.record_event()
        with calls.current():
            calls("cudaStreamWaitEvent", self._copy_stream, computed.handle, 0)
            calls("cudaMemcpyAsync", target.ctypes.data, source.pointer, target.nbytes, kind, self._copy_stream)
        return CudaEvent(self, self._copy_stream)


class DeviceBuffer:
    """A C-contiguous array in a GPU's memory. ``CudaDevice.allocate`` and ``CudaDevice.view`` make it.

    When it is closed or garbage, its memory is freed after the present work of the stream. CuPy, Numba and PyTorch read
    it in place by ``__cuda_array_interface__``. PyTorch does not wait for the stream: call ``device.synchronize()``
    first.

    Args:
        device: The GPU.
        pointer: Address of the first element.
        dtype: NumPy dtype.
        shape: Dimensions.
        owner: Object that keeps the memory, if it is not this one.
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
        """Address of the first element. Raises ``EngineError`` after ``close``."""
        if self._pointer is None:
            raise EngineError(f"GPU {self.device.index}: array used after close().")
        return self._pointer

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
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
        """Copy the array to the host.

        Returns:
            The copy.
        """
        result = np.empty(self.shape, self.dtype)
        if result.size:
            self.device.download(result, self).wait()
        return result

    def close(self) -> None:
        """Free the memory. No call may be using it. Closing twice has no effect."""
        self._pointer = self._owner = None
        if self.finalizer is not None:
            self.finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class CudaEvent:
    """The present end of a stream's work.

    Args:
        device: The GPU.
        stream: Address of the stream.
    """

    def __init__(self, device: CudaDevice, stream: int) -> None:
        self._calls = calls = device.calls
        with calls.current():
            self.handle = calls("cudaEventCreateWithFlags", calls.runtime.cudaEventDisableTiming)
            weakref.finalize(self, calls.release, "cudaEventDestroy", self.handle)
            calls("cudaEventRecord", self.handle, stream)

    def wait(self) -> None:
        """Wait until the work is done. Later work of the stream does not matter.

        Raises:
            EngineError: Some work failed.
        """
        with self._calls.current():
            self._calls("cudaEventSynchronize", self.handle)


class HostBuffer:
    """Pinned memory of the host, for fast copies. It is kept between calls and grows as needed.

    Args:
        device: The GPU.
    """

    def __init__(self, device: CudaDevice) -> None:
        self._calls = device.calls
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def sized(self, size: int) -> NDArray[np.uint8]:
        """Get the memory.

        Args:
            size: Number of bytes.

        Returns:
            uint8 [size] with unknown content. It is the same memory in each call, unless it grows.

        Raises:
            OutOfMemoryError: The host has too little memory.
        """
        if size > len(self._bytes):
            self.close()
            capacity = 1 << (size - 1).bit_length()
            with self._calls.current():
                pointer = self._calls("cudaMallocHost", capacity)
            self._finalizer = weakref.finalize(self, self._calls.release, "cudaFreeHost", pointer)
            self._bytes = np.ctypeslib.as_array((ctypes.c_ubyte * capacity).from_address(pointer))
        return self._bytes[:size]

    def close(self) -> None:
        """Free the memory. No copy may be using it. Closing twice has no effect."""
        self._bytes = np.empty(0, np.uint8)
        if self._finalizer is not None:
            self._finalizer()
