"""Engine of TensorRT on an NVIDIA GPU.

``tensorrt`` 10 and 11 and ``tensorrt_rtx`` have one API. The imported library is a parameter.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from esam_rt.engines.cuda.array_interface import check_alignment, is_gpu_array
from esam_rt.engines.cuda.device import CudaDevice, DeviceBuffer, HostBuffer
from esam_rt.engines.engine import check_feed
from esam_rt.engines.tensorrt.device_call import CallMemory, DeviceCall
from esam_rt.engines.tensorrt.execution_context import Context
from esam_rt.engines.tensorrt.loaded_engine import LoadedEngine, Weights
from esam_rt.engines.tensorrt.logger import keeping_logger
from esam_rt.engines.tensorrt.trt_cuda_graphs import TensorRTGraph, TensorRTGraphs
from esam_rt.errors import EngineError

if TYPE_CHECKING:
    from esam_rt.storage.checksummed_file import ChecksummedFile


@dataclass(frozen=True)
class CallBytes:
    """GPU memory of one call.

    Attributes:
        scratch: Bytes of scratch memory. They are free again after the call.
        tensors: Bytes of each input and output, by name.
    """

    scratch: int
    tensors: Mapping[str, int]

    @property
    def total(self) -> int:
        """Sum of all."""
        return self.scratch + sum(self.tensors.values())


class TensorRTEngine:
    """A serialized TensorRT engine. It is an ``Engine``.

    Args:
        name: Name for messages.
        plan: The serialized engine. The caller has checked it: the library trusts its bytes.
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.
        device: The GPU, shared by all engines of a model. They accept each other's outputs in place and reuse each
            other's scratch memory.
        runtime_cache: File for the kernels that TensorRT-RTX compiles. New ones are added when the engine is closed.
        cuda_graphs: Run calls that repeat as CUDA graphs.
        weights: Weights of a plan that has none.
        runs_host_code: Allow code for the CPU in the plan, as version-compatible plans have it. Only for a plan that
            the user trusts.

    Attributes:
        inputs: The engine's inputs.
        outputs: The engine's outputs.
        ranges: Smallest and largest shape of each input with dynamic dimensions, by name.
        engine_bytes: Approximate GPU memory of the plan and its weights.

    Raises:
        ModelError: The plan is damaged, for another GPU or version, or does not accept the weights.
        OutOfMemoryError: The GPU has too little memory.
        DeviceError: The library cannot use the driver.
    """

    def __init__(
        self,
        name: str,
        plan: bytes,
        library: ModuleType,
        device: CudaDevice,
        runtime_cache: ChecksummedFile | None = None,
        cuda_graphs: bool = False,
        weights: Weights | None = None,
        runs_host_code: bool = False,
    ) -> None:
        self._name, self._device = name, device
        self._lock = threading.Lock()
        self._logger = keeping_logger(library)
        # If nobody closes the engine, these are destroyed in this order, as TensorRT asks.
        self._graphs: TensorRTGraphs | None = None
        self._context: Context | None = None
        with device.current():
            self._loaded = LoadedEngine(name, plan, library, device, runtime_cache, weights, runs_host_code)
            self._context = self._loaded.new_context()
        self.inputs, self.outputs, self.ranges = self._loaded.inputs, self._loaded.outputs, self._loaded.ranges
        self.engine_bytes = len(plan) + (weights.size_bytes if weights else 0)
        if cuda_graphs:
            new_context = functools.partial(self._loaded.new_context, makes_cuda_graphs=True)
            self._graphs = TensorRTGraphs(name, device, new_context, captures=not self._loaded.compiles_kernels)
        self._staging = HostBuffer(device)

    def infer(self, feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        """Run the network once; see ``Engine``. Returns when the outputs are computed.

        Args:
            feed: One array for each input, by name: a NumPy array, a ``DeviceBuffer``, or an array of another library
                on this GPU as ``CudaDevice.view`` accepts it.
            outputs_on_device: Names of the outputs that must stay on the device.

        Returns:
            All outputs by name: NumPy arrays, and ``DeviceBuffer`` for ``outputs_on_device``.

        Raises:
            EngineError: An input is wrong, the engine is closed, or the library failed.
            InputError: An array is not C-contiguous or lies on another GPU.
            OutOfMemoryError: The GPU has too little memory. The engine stays usable.
        """
        with self._lock, self._device.current():
            context = self._open_context()
            self._device.check_is_running()
            arrays = {name: self._as_input(name, array) for name, array in feed.items()}
            check_feed(self._name, self.inputs, arrays)
            shapes = {name: tuple(array.shape) for name, array in arrays.items()}
            self._check_ranges(shapes)
            self._logger.forget()
            call = DeviceCall(self.inputs, self.outputs, arrays, context.set_shapes(shapes), outputs_on_device)
            # One block for both directions: the stream has read the inputs before it writes the outputs.
            staging = self._staging.sized(max(call.input_bytes, call.output_bytes))
            graph = None if self._graphs is None else self._graphs.find(call)
            if graph is None or self._graphs is None:
                return self._run_once(context, call, staging)
            return self._run_graph(self._graphs, graph, call, staging)

    def call_bytes(self, shapes: Mapping[str, tuple[int, ...]]) -> CallBytes:
        """Compute the GPU memory that a call needs. The scratch memory is the library's own figure. Nothing is run.

        Args:
            shapes: Shape of each input, by name. An input without dynamic dimensions may be left out.

        Returns:
            Bytes of scratch memory, inputs and outputs.

        Raises:
            EngineError: A shape is out of range, or the engine is closed.
        """
        with self._lock, self._device.current():
            context = self._open_context()
            inputs = {t.name: tuple(n for n in t.shape if n is not None) for t in self.inputs}
            inputs |= {name: tuple(shape) for name, shape in shapes.items()}
            self._check_ranges(inputs)
            self._logger.forget()
            call = context.set_shapes(inputs)
            all_shapes = {**inputs, **call.outputs}
            sizes = {t.name: math.prod(all_shapes[t.name]) * t.dtype.itemsize for t in (*self.inputs, *self.outputs)}
            return CallBytes(call.scratch_bytes, sizes)

    def _run_once(self, context: Context, call: DeviceCall, staging: NDArray[np.uint8]) -> dict[str, Any]:
        """Run a call on memory of its own."""
        memory = call.allocate(self._device)
        is_done = False
        try:
            self._transfer_and_launch(
                call, memory, staging, lambda addresses: context.launch(addresses, memory.scratch, self._device.stream)
            )
            is_done = True
        finally:
            memory.close(with_outputs=not is_done)
        return call.read_outputs(staging, memory.outputs)

    def _run_graph(
        self, graphs: TensorRTGraphs, graph: TensorRTGraph, call: DeviceCall, staging: NDArray[np.uint8]
    ) -> dict[str, Any]:
        """Run a call on the memory of a graph, and capture it for the next time."""
        try:
            self._transfer_and_launch(call, graph.memory, staging, graph.launch)
        except BaseException:
            graphs.discard()
            raise
        outputs = graph.lend_outputs()
        graphs.capture(graph, call.addresses(graph.memory))
        return call.read_outputs(staging, outputs)

    def _transfer_and_launch(
        self,
        call: DeviceCall,
        memory: CallMemory,
        staging: NDArray[np.uint8],
        launch: Callable[[Mapping[str, int]], None],
    ) -> None:
        """Copy the inputs in, launch, copy the outputs out, and wait."""
        device = self._device
        call.write_inputs(staging)
        addresses = call.addresses(memory)
        try:
            if call.input_bytes:
                device.upload(memory.input_staging, staging[: call.input_bytes])
            launch(addresses)
            if call.output_bytes:
                device.download(staging[: call.output_bytes], memory.output_staging).wait()
            else:
                device.record_event().wait()
        except BaseException:
            device.synchronize()  # the streams may still use memory that the caller frees
            raise

    def _open_context(self) -> Context:
        """Return the context; raise an error after close()."""
        if self._context is None:
            raise EngineError(f"{self._name}: used after close().")
        return self._context

    def _as_input(self, name: str, array: Any) -> NDArray[Any] | DeviceBuffer:
        """Return an input as a NumPy array or as memory of this GPU that the stream may use."""
        if isinstance(array, np.ndarray | np.generic):
            return np.asarray(array)
        if isinstance(array, DeviceBuffer) and array.device is self._device:
            return array
        if is_gpu_array(array):
            view = self._device.view(array)
            check_alignment(f"{self._name}: input {name}", view.pointer)
            return view
        raise EngineError(
            f"{self._name}: input {name}: expected a NumPy array or memory of GPU {self._device.index}, got "
            f"{type(array).__name__}. Outputs of other backends are not accepted."
        )

    def _check_ranges(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Check dimensions against the ranges that the engine was built for."""
        for name, shape in shapes.items():
            if 0 in shape:
                got = "×".join(map(str, shape))
                raise EngineError(f"{self._name}: input {name}: expected no empty dimension, got {got}.")
        for name, (smallest, largest) in self.ranges.items():
            for axis, (low, high, n) in enumerate(zip(smallest, largest, shapes[name], strict=True)):
                if not low <= n <= high:
                    raise EngineError(
                        f"{self._name}: input {name}: axis {axis}: expected {low}…{high}, got {n}; the engine was "
                        "built for that range."
                    )

    def close(self) -> None:
        """Release the engine; see ``Engine``. Waits for a call in another thread."""
        with self._lock, self._device.current():
            try:
                self._loaded.save_runtime_cache()
            finally:
                if self._graphs is not None:
                    self._graphs.close()
                if self._context is not None:
                    self._context.close()
                self._graphs = self._context = None
                self._loaded.close()
                self._staging.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
