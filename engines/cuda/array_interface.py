"""Arrays of other libraries in a GPU's memory, by DLPack or ``__cuda_array_interface__``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from esam_rt.errors import EngineError, InputError, MissingDependencyError

ALIGNMENT = 256
"""Alignment of addresses that TensorRT accepts, in bytes. CUDA's allocations have it."""

DEFAULT_STREAMS = (0, 1, 2)
"""Addresses of CUDA's default streams: the legacy one by two names, and the one of each thread."""

ON_GPU = (2, 13)  # DLPack's device types: CUDA memory and managed memory


@dataclass(frozen=True)
class GpuArray:
    """Where an array lies in a GPU's memory.

    Attributes:
        pointer: Address of the first element.
        shape: Dimensions.
        strides_bytes: Stride of each axis, in bytes.
        dtype: NumPy dtype.
        stream: Address of the stream whose work must be done before the array is read. None if there is none, or if the
            reader's stream waits already.
        owner: Object that keeps the memory.
    """

    pointer: int
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None
    owner: object

    @property
    def is_contiguous(self) -> bool:
        """True if the array is C-contiguous. The stride of an axis with one element does not matter."""
        return self.rows_are_contiguous(len(self.shape))

    def check_is_contiguous(self) -> None:
        """Check that the array is C-contiguous.

        Raises:
            InputError: It is not.
        """
        if not self.is_contiguous:
            raise InputError(
                f"GPU array: found shape {list(self.shape)} with strides {list(self.strides_bytes)}, expected a "
                "C-contiguous array; make one with .contiguous() or ascontiguousarray()."
            )

    def rows_are_contiguous(self, axes: int) -> bool:
        """Check the strides of the last axes.

        Args:
            axes: Number of axes.

        Returns:
            True if these axes are C-contiguous.
        """
        expected = self.dtype.itemsize
        for n, stride in list(zip(self.shape, self.strides_bytes, strict=True))[::-1][:axes]:
            if n > 1 and stride != expected:
                return False
            expected *= n
        return True


def is_gpu_array(array: object) -> bool:
    """Find out if an array lies in a GPU's memory.

    Args:
        array: Any object.

    Returns:
        True if its interface names a GPU.

    Raises:
        InputError: The array has no memory.
    """
    if hasattr(array, "__dlpack_device__") and hasattr(array, "__dlpack__"):
        try:
            return int(array.__dlpack_device__()[0]) in ON_GPU
        except (BufferError, ValueError) as e:  # raised by PyTorch for a tensor without memory
            raise InputError(f"Array: expected one that DLPack can pass on, found one that it cannot: {e}") from e
    return hasattr(array, "__cuda_array_interface__")


def gpu_array(array: Any, read_on: int) -> GpuArray:
    """Find out where an array lies. Nothing is copied.

    By DLPack the other library makes the reading stream wait for its work (PyTorch, CuPy, JAX, TensorFlow).
    ``__cuda_array_interface__`` may name a stream to wait for (Numba).

    Args:
        array: Array for which ``is_gpu_array`` is true.
        read_on: Address of the stream that will read it.

    Returns:
        The array's place in memory.

    Raises:
        InputError: The other library cannot share the array.
        MissingDependencyError: DLPack needs cuda-core, which is missing.
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
        strides = strides or _contiguous_strides(shape, dtype)
        return GpuArray(seen.ptr, shape, strides, dtype, None, seen)
    interface = array.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise InputError("GPU array: found one with a mask, expected one without.")
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    if dtype == np.dtype("V2"):
        dtype = np.dtype(ml_dtypes.bfloat16)
    strides = interface.get("strides")
    strides = _contiguous_strides(shape, dtype) if strides is None else tuple(strides)
    pointer, stream = int(interface["data"][0]), interface.get("stream")
    return GpuArray(pointer, shape, strides, dtype, stream, array)


def stream_address(stream: Any) -> int:
    """Get the address of a CUDA stream.

    Args:
        stream: Address of a ``cudaStream_t``, or an object with ``__cuda_stream__`` (cuda.core, CuPy, Numba, PyTorch).

    Returns:
        The address.

    Raises:
        InputError: The object is no stream.
    """
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise InputError(
        f"Stream: expected the address of a CUDA stream or an object with __cuda_stream__, got {stream!r:.80}. With an "
        "older PyTorch pass stream.cuda_stream."
    )


def check_alignment(name: str, pointer: int) -> None:
    """Check that an address has the alignment that engines need.

    Args:
        name: Name of the input, for messages.
        pointer: Address on the GPU.

    Raises:
        EngineError: It has not.
    """
    if pointer % ALIGNMENT:
        raise EngineError(
            f"{name}: expected GPU memory aligned to {ALIGNMENT} bytes, got a part of a larger array; copy it first."
        )


def _contiguous_strides(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Strides in bytes of a C-contiguous array."""
    strides = [dtype.itemsize]
    for n in shape[:0:-1]:
        strides.append(strides[-1] * n)
    return tuple(strides[::-1]) if shape else ()
