"""TensorRT on an NVIDIA GPU.

One module for `tensorrt` 10 and 11 and for `tensorrt_rtx`, which have one API; the library is a parameter.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from types import ModuleType, TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import DeviceError, EngineError, ModelError, OutOfMemoryError

from .base import Tensor, check_feed
from .cuda import CudaDevice, DeviceBuffer, HostBuffer
from .tensorrt_log import keeping_logger

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
ALIGNMENT = 256  # of addresses that TensorRT takes, in bytes


class TensorRTEngine:
    """A serialised TensorRT engine behind the `Engine` protocol; `infer` may be called from several threads at once.

    name: for messages. plan: the engine's bytes, which the caller has checked: the library trusts them. library: the
    imported `tensorrt` or `tensorrt_rtx`. device: shared by all engines of a model, so that one takes in place what
    another has kept. Errors: ModelError for a plan that is broken or of another GPU or version, OutOfMemoryError,
    DeviceError where the library cannot use the driver.
    """

    def __init__(self, name: str, plan: bytes, library: ModuleType, device: CudaDevice) -> None:
        self._name, self._device = name, device
        self._lock = threading.Lock()
        self._logger = logger = keeping_logger(library)
        version = f"{library.__name__} {library.__version__}"
        with device.current():
            try:
                self._runtime: Any = library.Runtime(logger)
            except TypeError as e:  # what its bindings make of a library that cannot start
                raise DeviceError(
                    f"GPU {device.index}: {version} cannot start: {logger.words()} Expected a driver for its CUDA "
                    "version."
                ) from e
            self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
            self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            if logger.tells_out_of_memory():
                raise OutOfMemoryError(f"{name}: not enough memory on GPU {device.index} to load it: {logger.words()}")
            raise ModelError(
                f"{name}: expected a TensorRT engine built for this GPU and version ({device.capability}, {version}), "
                f"found one that cannot be loaded: {logger.words()} Build it again: esam-rt build-engine."
            )
        tensors = [_tensor(name, self._engine, n, library) for n in _names(self._engine)]
        inputs = [self._engine.get_tensor_mode(t.name) == library.TensorIOMode.INPUT for t in tensors]
        self.inputs = tuple(t for t, is_input in zip(tensors, inputs, strict=True) if is_input)
        self.outputs = tuple(t for t, is_input in zip(tensors, inputs, strict=True) if not is_input)
        self._ranges = {t.name: _range(self._engine, t.name) for t in self.inputs if None in t.shape}
        self._staging = HostBuffer(device)

    def infer(self, feed: Mapping[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
        """Run once; see `Engine`.

        Takes NumPy arrays, `DeviceBuffer`s and what `CudaDevice.view` takes. Returns when the stream is done; kept
        outputs are `DeviceBuffer`s that no later call writes to. OutOfMemoryError leaves the engine usable.
        """
        with self._lock, self._device.current():
            if self._context is None:
                raise EngineError(f"{self._name}: used after close().")
            arrays = {name: self._placed(name, array) for name, array in feed.items()}
            check_feed(self._name, self.inputs, arrays)
            self._check_ranges(arrays)
            self._logger.complaints.clear()
            shapes = self._output_shapes(arrays)
            return self._run(arrays, shapes, keep)

    def _run(
        self,
        arrays: Mapping[str, NDArray[Any] | DeviceBuffer],
        shapes: Mapping[str, tuple[int, ...]],
        keep: Collection[str],
    ) -> dict[str, Any]:
        """Copy in, launch, copy out, wait. Of the host's arrays, all inputs go in one copy, all outputs in another."""
        device = self._device  # the context is no local: the traceback of an error would keep it after close()
        on_host = {name: a for name, a in arrays.items() if isinstance(a, np.ndarray)}
        fetched = {t.name: t for t in self.outputs if t.name not in keep}
        input_at, input_bytes = _packed((name, a.nbytes) for name, a in on_host.items())
        output_at, output_bytes = _packed((n, math.prod(shapes[n]) * t.dtype.itemsize) for n, t in fetched.items())
        # One piece for both: the stream has read the inputs before it writes the outputs.
        staging = self._staging.sized(max(input_bytes, output_bytes))
        with ExitStack() as at_end, ExitStack() as on_error:
            fed = at_end.enter_context(device.allocate((input_bytes,), np.uint8))
            got = at_end.enter_context(device.allocate((output_bytes,), np.uint8))
            kept = {
                t.name: on_error.enter_context(device.allocate(shapes[t.name], t.dtype))
                for t in self.outputs
                if t.name in keep
            }
            for name, array in on_host.items():
                _part(staging, input_at[name], array.dtype, array.shape)[...] = array
            addresses = {name: a.pointer for name, a in arrays.items() if isinstance(a, DeviceBuffer)}
            addresses |= {name: fed.pointer + at for name, at in input_at.items()}
            addresses |= {name: got.pointer + at for name, at in output_at.items()}
            addresses |= {name: buffer.pointer for name, buffer in kept.items()}
            try:
                if input_bytes:
                    device.upload(fed, staging[:input_bytes])
                for name, address in addresses.items():
                    self._require(
                        self._context.set_tensor_address(name, address), f"does not take the address of {name}"
                    )
                self._require(self._context.execute_async_v3(device.stream), "could not run")
                if output_bytes:
                    device.download(staging[:output_bytes], got)
            finally:
                device.synchronise()  # also after a failure: memory that the stream may use is not given back before
            on_error.pop_all()
            return {
                t.name: kept[t.name]
                if t.name in kept
                else _part(staging, output_at[t.name], t.dtype, shapes[t.name]).copy()
                for t in self.outputs
            }

    def _placed(self, name: str, array: Any) -> NDArray[Any] | DeviceBuffer:
        """An input as NumPy array or memory of this GPU that the stream may use."""
        if isinstance(array, np.ndarray | np.generic):
            return np.asarray(array)
        if isinstance(array, DeviceBuffer) and array.device is self._device:
            return array
        if hasattr(array, "__cuda_array_interface__"):
            view = self._device.view(array)
            if view.pointer % ALIGNMENT:
                raise EngineError(
                    f"{self._name}: input {name}: expected GPU memory aligned to {ALIGNMENT} bytes, got a part of a "
                    "greater array; copy it first."
                )
            return view
        raise EngineError(
            f"{self._name}: input {name}: expected a NumPy array or memory of GPU {self._device.index}, got "
            f"{type(array).__name__}; was kept by another backend?"
        )

    def _check_ranges(self, arrays: Mapping[str, Any]) -> None:
        """Extents against those that the engine was built for."""
        for name, array in arrays.items():
            if 0 in array.shape:
                got = "×".join(map(str, array.shape))
                raise EngineError(f"{self._name}: input {name}: expected no empty extent, got {got}.")
        for name, (low, high) in self._ranges.items():
            for axis, (least, most, n) in enumerate(zip(low, high, arrays[name].shape, strict=True)):
                if not least <= n <= most:
                    raise EngineError(
                        f"{self._name}: input {name}: axis {axis}: expected {least}…{most}, got {n}; the engine was "
                        "built for that range."
                    )

    def _output_shapes(self, arrays: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs; the context has the shapes of the inputs then."""
        for name in self._ranges:
            shape = tuple(arrays[name].shape)
            self._require(self._context.set_input_shape(name, shape), f"does not take shape {shape} of {name}")
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as e:
            raise EngineError(f"{self._name}: TensorRT could not infer shapes: {e}") from e
        shapes = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in self.outputs}
        free = [name for name, shape in shapes.items() if any(n < 0 for n in shape)]
        if missing or free:
            raise EngineError(
                f"{self._name}: {', '.join([*missing, *free])}: expected shapes that follow from those of the inputs, "
                "found ones that depend on their values."
            )
        return shapes

    def _require(self, done: bool, what: str) -> None:
        """Raise with the library's words unless done."""
        if done:
            return
        words = self._logger.words()
        if self._logger.tells_out_of_memory():
            raise OutOfMemoryError(
                f"{self._name}: out of memory on GPU {self._device.index}; use smaller batches: {words}"
            )
        raise EngineError(f"{self._name}: TensorRT {what}: {words}")

    def close(self) -> None:
        """Release the engine, once a call in another thread has ended; see `Engine`."""
        with self._lock, self._device.current():
            self._context = None
            self._engine = None
            self._runtime = None
            self._staging.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]


def _tensor(name: str, engine: Any, tensor: str, library: ModuleType) -> Tensor:
    """Name, dtype and shape of an engine's input or output."""
    dtype = engine.get_tensor_dtype(tensor).name
    if dtype not in DTYPES:
        raise ModelError(f"{name}: {tensor}: found {dtype}, expected one of {', '.join(DTYPES)}.")
    if engine.get_tensor_location(tensor) != library.TensorLocation.DEVICE:
        raise ModelError(f"{name}: {tensor}: found a tensor that must lie on the host, expected one on the GPU.")
    shape = tuple(None if n < 0 else n for n in engine.get_tensor_shape(tensor))
    return Tensor(tensor, np.dtype(DTYPES[dtype]), shape)


def _range(engine: Any, tensor: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Least and greatest shape of an input, of the profile that a first context has."""
    low, _, high = engine.get_tensor_profile_shape(tensor, 0)
    return tuple(low), tuple(high)


def _packed(sizes: Iterable[tuple[str, int]]) -> tuple[dict[str, int], int]:
    """Where in one piece of memory each goes, aligned, and the bytes of all."""
    at, end = {}, 0
    for name, size in sizes:
        at[name] = -(-end // ALIGNMENT) * ALIGNMENT
        end = at[name] + max(1, size)  # the empty has an address too
    return at, end


def _part(memory: NDArray[np.uint8], at: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a piece of memory."""
    return memory[at : at + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
