"""Arrays of other libraries in a GPU's memory, by DLPack or `__cuda_array_interface__`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from esam_rt.errors import InputError, MissingDependencyError

ALIGNMENT = 256  # of addresses that TensorRT takes, in bytes; CUDA allocates so
DEFAULT_STREAMS = (0, 1, 2)  # the legacy one, by two names, and that of each thread
ON_GPU = (2, 13)  # DLPack's devices: memory of CUDA, and managed memory


@dataclass(frozen=True)
class GpuArray:
    """pointer: address of the first element. strides_bytes: of each axis. stream: whose work must be done before the
    array is read, None where nothing is to be waited for, or the reader's stream does so by itself. owner: what keeps
    the memory."""

    pointer: int
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None
    owner: object

    @property
    def is_contiguous(self) -> bool:
        """Whether it is C-contiguous; strides of single elements do not matter."""
        return self.rows_are_contiguous(len(self.shape))

    def check_is_contiguous(self) -> None:
        """InputError unless it is."""
        if not self.is_contiguous:
            raise InputError(
                f"GPU array: found shape {list(self.shape)} with strides {list(self.strides_bytes)}, expected a "
                "C-contiguous array; make one with .contiguous() or ascontiguousarray()."
            )

    def rows_are_contiguous(self, axes: int) -> bool:
        """Whether the last `axes` axes lie as in a C-contiguous array."""
        expected = self.dtype.itemsize
        for n, stride in list(zip(self.shape, self.strides_bytes, strict=True))[::-1][:axes]:
            if n > 1 and stride != expected:
                return False
            expected *= n
        return True


def is_gpu_array(array: object) -> bool:
    """Whether an object says that it lies in a GPU's memory. InputError for one that has none."""
    if hasattr(array, "__dlpack_device__") and hasattr(array, "__dlpack__"):
        try:
            return int(array.__dlpack_device__()[0]) in ON_GPU
        except (BufferError, ValueError) as e:  # as PyTorch's of a tensor without memory
            raise InputError(f"Array: expected one that DLPack can pass on, found one that it cannot: {e}") from e
    return hasattr(array, "__cuda_array_interface__")


def gpu_array(array: Any, read_on: int) -> GpuArray:
    """Where an object for which `is_gpu_array` holds lies; nothing is copied.

    read_on: the address of the stream that will read it. By DLPack the other library has it wait for what is still to
    be written (PyTorch, CuPy, JAX, TensorFlow). `__cuda_array_interface__` names a stream to wait for, or none, as
    Numba. InputError for arrays that cannot be passed on, MissingDependencyError where DLPack needs cuda-core.
    """
    if hasattr(array, "__dlpack__"):
        try:
            memory_view: Any = importlib.import_module("cuda.core.utils").StridedMemoryView
        except ImportError as e:
            raise MissingDependencyError(
                f"cuda-core cannot be imported ({e}), which reads arrays by DLPack; get it with: pip install cuda-core"
            ) from e
        try:
            seen = memory_view.from_dlpack(array, stream_ptr=read_on)
            dtype, shape = np.dtype(seen.dtype), tuple(seen.shape)
        except (BufferError, TypeError, ValueError, RuntimeError) as e:  # a dtype that NumPy lacks, or a gradient
            raise InputError(f"GPU array: expected one that DLPack can pass on, found one that it cannot: {e}") from e
        strides = None if seen.strides is None else tuple(n * dtype.itemsize for n in seen.strides)
        strides = strides or _packed(shape, dtype)
        return GpuArray(seen.ptr, shape, strides, dtype, None, seen)
    interface = array.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise InputError("GPU array: found one with a mask, expected one without.")
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    if dtype == np.dtype("V2"):
        dtype = np.dtype(ml_dtypes.bfloat16)
    strides = interface.get("strides")
    strides = _packed(shape, dtype) if strides is None else tuple(strides)
    pointer, stream = int(interface["data"][0]), interface.get("stream")
    return GpuArray(pointer, shape, strides, dtype, stream, array)


def stream_address(stream: Any) -> int:
    """The address of a `cudaStream_t`, given as such or as an object with `__cuda_stream__`, as cuda.core, CuPy, Numba
    and PyTorch have it. InputError for anything else."""
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise InputError(
        f"Stream: expected the address of a CUDA stream or an object with __cuda_stream__, got {stream!r:.80}; of an "
        "older PyTorch give stream.cuda_stream."
    )


def _packed(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Strides in bytes of a C-contiguous array."""
    strides = [dtype.itemsize]
    for n in shape[:0:-1]:
        strides.append(strides[-1] * n)
    return tuple(strides[::-1]) if shape else ()
