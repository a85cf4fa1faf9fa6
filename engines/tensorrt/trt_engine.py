"""TensorRT on an NVIDIA GPU.

One module for `tensorrt` 10 and 11 and for `tensorrt_rtx`, which have one API; the library is a parameter.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from esam_rt.engines.cuda.array_interface import ALIGNMENT, is_gpu_array
from esam_rt.engines.cuda.device import CudaDevice, DeviceBuffer, HostBuffer
from esam_rt.engines.engine import Tensor, check_feed
from esam_rt.engines.tensorrt.execution_context import Call, Context, Memory
from esam_rt.engines.tensorrt.logger import keeping_logger
from esam_rt.engines.tensorrt.trt_cuda_graphs import Replay, Replays
from esam_rt.errors import DeviceError, EngineError, ModelError, OutOfMemoryError

if TYPE_CHECKING:
    from esam_rt.storage.checksummed_file import ChecksummedFile

_log = logging.getLogger("esam_rt")

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class CallBytes:
    """What a call takes of the GPU's memory: scratch, which is free again after it, and inputs and outputs by name."""

    scratch: int
    tensors: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return self.scratch + sum(self.tensors.values())


@dataclass(frozen=True)
class Weights:
    """graph: the ONNX file that an engine was built of, which the caller has checked, hashes included. size_bytes: of
    its weights, about."""

    graph: Path
    size_bytes: int


class TensorRTEngine:
    """A serialised TensorRT engine behind the `Engine` protocol; `infer` may be called from several threads at once.

    name: for messages. plan: the engine's bytes, which the caller has checked: the library trusts them. library: the
    imported `tensorrt` or `tensorrt_rtx`. device: shared by all engines of a model, so that one takes in place what
    another has kept, and uses again the scratch memory that it needed. kernels: that TensorRT-RTX had compiled for the
    GPU; new ones are added when the engine is closed. cuda_graphs: whether calls that repeat are run as CUDA graphs, on
    memory that stays. weights: of a plan that has none. runs_host_code: whether the plan may bring code for the CPU, as
    those do that other versions of the library run: only for one that the user trusts. ranges: least and greatest shape
    of the inputs with free extents. plan_bytes: of the plan and its weights, about what they take. Errors: ModelError
    for a plan that is broken or of another GPU or version, or does not take its weights, OutOfMemoryError,
    DeviceError where the library cannot use the driver.
    """

    def __init__(
        self,
        name: str,
        plan: bytes,
        library: ModuleType,
        device: CudaDevice,
        kernels: ChecksummedFile | None = None,
        cuda_graphs: bool = False,
        weights: Weights | None = None,
        runs_host_code: bool = False,
    ) -> None:
        self._name, self._device = name, device
        self.plan_bytes = len(plan) + (weights.size_bytes if weights else 0)
        self._lock = threading.Lock()
        self._logger = logger = keeping_logger(library)
        logger.forget()
        # Where nobody closes the engine these go in this order, as TensorRT wants.
        self._replays: Replays | None = None
        self._context: Context | None = None
        self._engine: Any = None
        self._kernels: _Kernels | None = None
        self._runtime: Any = None
        version = f"{library.__name__} {library.__version__}"
        with device.current():
            try:
                self._runtime = library.Runtime(logger)
            except TypeError as e:  # what its bindings make of an object that cannot be made
                raise DeviceError(
                    f"GPU {device.index}: {version} cannot start: {logger.words()} Expected a driver for its CUDA "
                    "version."
                ) from e
            if runs_host_code:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                if logger.tells_out_of_memory():
                    raise self._no_memory()
                raise ModelError(
                    f"{name}: expected a TensorRT engine built for this GPU and version ({device.capability}, "
                    f"{version}), found one that cannot be loaded: {logger.words()} Build it again: esam-rt "
                    "build-engine."
                )
            if weights is not None:
                self._put_in(weights, library)
            tensors = [_tensor(name, self._engine, n, library) for n in _names(self._engine)]
            inputs = [self._engine.get_tensor_mode(t.name) == library.TensorIOMode.INPUT for t in tensors]
            self.inputs = tuple(t for t, is_input in zip(tensors, inputs, strict=True) if is_input)
            self.outputs = tuple(t for t, is_input in zip(tensors, inputs, strict=True) if not is_input)
            self.ranges = {t.name: _range(self._engine, t.name) for t in self.inputs if None in t.shape}
            compiles = hasattr(library, "IRuntimeCache")
            if compiles and kernels is not None:
                self._kernels = _Kernels(kernels, self._engine)
            self._context = self._new_context(library)
        if cuda_graphs:
            new_context = functools.partial(self._new_context, library, is_replayed=True)
            self._replays = Replays(device, new_context, captures=not compiles)
        self._staging = HostBuffer(device)

    def infer(self, feed: Mapping[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
        """Run once; see `Engine`.

        Takes NumPy arrays, `DeviceBuffer`s and what `CudaDevice.view` takes. Returns when the stream is done; kept
        outputs are `DeviceBuffer`s that no later call writes to. OutOfMemoryError leaves the engine usable.
        """
        with self._lock, self._device.current():
            context = self._open_context()
            self._device.check_is_running()
            arrays = {name: self._placed(name, array) for name, array in feed.items()}
            check_feed(self._name, self.inputs, arrays)
            shapes = {name: tuple(array.shape) for name, array in arrays.items()}
            self._check_ranges(shapes)
            self._logger.forget()
            return self._run(context, arrays, context.prepared(shapes), keep)

    def call_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> CallBytes:
        """What a call would take with inputs of these shapes; of inputs without free extents they may be left out.

        The library's own figure for the scratch memory; nothing is run. EngineError as of `infer`.
        """
        with self._lock, self._device.current():
            context = self._open_context()
            inputs = {t.name: tuple(n for n in t.shape if n is not None) for t in self.inputs}
            inputs |= {name: tuple(shape) for name, shape in shapes.items()}
            self._check_ranges(inputs)
            self._logger.forget()
            call = context.prepared(inputs)
            of = {**inputs, **call.outputs}
            sizes = {t.name: math.prod(of[t.name]) * t.dtype.itemsize for t in (*self.inputs, *self.outputs)}
            return CallBytes(call.scratch_bytes, sizes)

    def _run(
        self, context: Context, arrays: Mapping[str, NDArray[Any] | DeviceBuffer], call: Call, keep: Collection[str]
    ) -> dict[str, Any]:
        """Copy in, launch, copy out, wait. Of the host's arrays, all inputs go in one copy, all outputs in another."""
        device, shapes = self._device, call.outputs
        # In the order of the inputs, whatever that of the feed: replays of a call have fixed addresses.
        on_host = {t.name: a for t in self.inputs if isinstance(a := arrays[t.name], np.ndarray)}
        on_device = {t.name: a.pointer for t in self.inputs if isinstance(a := arrays[t.name], DeviceBuffer)}
        fetched = {t.name: t for t in self.outputs if t.name not in keep}
        input_at, input_bytes = _packed((name, a.nbytes) for name, a in on_host.items())
        output_at, output_bytes = _packed((n, math.prod(shapes[n]) * t.dtype.itemsize) for n, t in fetched.items())
        # One piece for both: the stream has read the inputs before it writes the outputs.
        staging = self._staging.sized(max(input_bytes, output_bytes))
        kept = [t for t in self.outputs if t.name in keep]
        allocate = functools.partial(Memory.allocate, device, input_bytes, output_bytes, call, kept)
        replay = self._replay((tuple(call.inputs.items()), tuple(fetched), tuple(on_device.items())), call, allocate)
        memory = allocate() if replay is None else replay.memory
        is_done = False
        try:
            for name, array in on_host.items():
                _part(staging, input_at[name], array.dtype, array.shape)[...] = array
            addresses = on_device | {name: memory.fed.pointer + at for name, at in input_at.items()}
            addresses |= {name: memory.fetched.pointer + at for name, at in output_at.items()}
            addresses |= {name: buffer.pointer for name, buffer in memory.kept.items()}
            try:
                if input_bytes:
                    device.upload(memory.fed, staging[:input_bytes])
                if replay is None:
                    context.launch(addresses, memory.scratch, device.stream)
                else:
                    replay.launch(addresses)
                if output_bytes:
                    device.fetched(staging[:output_bytes], memory.fetched).wait()
                else:
                    device.fetched().wait()
            except BaseException:
                device.synchronise()  # memory that the streams may use is not given back before
                raise
            is_done = True
        finally:
            if replay is None:
                memory.close(with_kept=not is_done)
            elif not is_done and self._replays is not None:
                self._replays.forget()
        stays = memory.kept if replay is None else self._lent(replay, addresses)
        return {
            t.name: stays[t.name]
            if t.name in stays
            else _part(staging, output_at[t.name], t.dtype, shapes[t.name]).copy()
            for t in self.outputs
        }

    def _replay(self, key: Hashable, call: Call, allocate: Callable[[], Memory]) -> Replay | None:
        """The replay of a call that repeats, where calls are replayed."""
        if self._replays is not None:
            try:
                return self._replays.of(key, call.inputs, allocate)
            except (EngineError, OutOfMemoryError) as e:
                self._stop_replaying(e)
        return None

    def _lent(self, replay: Replay, addresses: Mapping[str, int]) -> dict[str, DeviceBuffer]:
        """The outputs to keep of a replay that is done, which is captured for the next time."""
        outputs = replay.lend()
        if self._replays is not None and self._replays.captures:
            try:
                replay.capture(addresses)
            except (EngineError, OutOfMemoryError) as e:
                self._stop_replaying(e)
        return outputs

    def _stop_replaying(self, why: Exception) -> None:
        """Run all calls as any from now on."""
        _log.warning("%s: no CUDA graph could be made (%s); going on without.", self._name, str(why))
        if self._replays is not None:
            self._replays.close()
            self._replays = None

    def _open_context(self) -> Context:
        """The context of calls; EngineError after close()."""
        if self._context is None:
            raise EngineError(f"{self._name}: used after close().")
        return self._context

    def _new_context(self, library: ModuleType, is_replayed: bool = False) -> Context:
        """A context; its scratch memory is ours: only so can engines share it, and take no more than a call needs."""
        strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(library, "IRuntimeCache"):
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if self._kernels is not None:
                config.set_runtime_cache(self._kernels.cache)
            if is_replayed:
                config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            made = self._engine.create_execution_context(config)
        else:
            made = self._engine.create_execution_context(strategy)
        if made is None and self._logger.tells_out_of_memory():
            raise self._no_memory()
        if made is None:
            raise EngineError(f"{self._name}: TensorRT made no execution context: {self._logger.words()}")
        return Context(self._name, made, self.ranges, self.outputs, self._logger, self._device.index)

    def _put_in(self, weights: Weights, library: ModuleType) -> None:
        """Put the weights of an ONNX file into an engine that has none."""
        found = ""
        try:
            refitter = library.Refitter(self._engine, self._logger)
            parser = library.OnnxParserRefitter(refitter, self._logger)
            if parser.refit_from_file(str(weights.graph)) and refitter.refit_cuda_engine():
                return
            found = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        except TypeError:  # what its bindings make of an object that cannot be made, as of a plan that takes no weights
            pass
        if self._logger.tells_out_of_memory():
            raise self._no_memory()
        raise ModelError(
            f"{self._name}: TensorRT could not take its weights from {weights.graph}: {found or self._logger.words()} "
            "Build it again: esam-rt build-engine."
        )

    def _no_memory(self) -> OutOfMemoryError:
        words = self._logger.words()
        return OutOfMemoryError(f"{self._name}: not enough memory on GPU {self._device.index} to load it: {words}")

    def _placed(self, name: str, array: Any) -> NDArray[Any] | DeviceBuffer:
        """An input as NumPy array or memory of this GPU that the stream may use."""
        if isinstance(array, np.ndarray | np.generic):
            return np.asarray(array)
        if isinstance(array, DeviceBuffer) and array.device is self._device:
            return array
        if is_gpu_array(array):
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

    def _check_ranges(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Extents against those that the engine was built for."""
        for name, shape in shapes.items():
            if 0 in shape:
                got = "×".join(map(str, shape))
                raise EngineError(f"{self._name}: input {name}: expected no empty extent, got {got}.")
        for name, (low, high) in self.ranges.items():
            for axis, (least, most, n) in enumerate(zip(low, high, shapes[name], strict=True)):
                if not least <= n <= most:
                    raise EngineError(
                        f"{self._name}: input {name}: axis {axis}: expected {least}…{most}, got {n}; the engine was "
                        "built for that range."
                    )

    def close(self) -> None:
        """Release the engine, once a call in another thread has ended; see `Engine`."""
        with self._lock, self._device.current():
            try:
                if self._kernels is not None:
                    self._kernels.keep()
            finally:
                if self._replays is not None:
                    self._replays.close()
                if self._context is not None:
                    self._context.close()
                self._replays = self._context = self._kernels = None
                self._engine = None
                self._runtime = None
                self._staging.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Kernels:
    """What TensorRT-RTX compiles for the GPU, with what it compiled before, from a file."""

    def __init__(self, file: ChecksummedFile, engine: Any) -> None:
        self._file, self._known = file, file.read()
        self.cache = engine.create_runtime_config().create_runtime_cache()
        if self._known and not self.cache.deserialize(self._known):
            _log.info("%s: of another driver; its kernels are compiled anew.", file.path)

    def keep(self) -> None:
        """Write the file, if there is anything new."""
        serialized = self.cache.serialize()
        if serialized is not None and (now := bytes(serialized)) != self._known:
            self._file.update(lambda _: now)


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
