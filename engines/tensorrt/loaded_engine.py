"""Loading of serialized TensorRT engines: their tensors, weights, execution contexts and runtime cache."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.engines.dtypes import TENSORRT_DTYPES
from esam_rt.engines.engine import TensorSpec
from esam_rt.engines.tensorrt.execution_context import Context
from esam_rt.engines.tensorrt.logger import keeping_logger, parser_messages
from esam_rt.errors import DeviceError, EngineError, ModelError, OutOfMemoryError

if TYPE_CHECKING:
    from esam_rt.storage.checksummed_file import ChecksummedFile

_log = logging.getLogger("esam_rt")


@dataclass(frozen=True)
class Weights:
    """Weights for an engine that was built without.

    Attributes:
        graph: ONNX file that the engine was built from. The caller has checked it, hashes included.
        size_bytes: Approximate size of the weights.
    """

    graph: Path
    size_bytes: int


class RuntimeCache:
    """The kernels that TensorRT-RTX compiles for the GPU, kept in a file for later runs.

    Args:
        file: File of the kernels.
        engine: The library's engine.
    """

    def __init__(self, file: ChecksummedFile, engine: Any) -> None:
        self._file, self._content = file, file.read()
        self.cache = engine.create_runtime_config().create_runtime_cache()
        if self._content and not self.cache.deserialize(self._content):
            _log.info("%s: made with another driver. Compiling its kernels again.", file.path)

    def save(self) -> None:
        """Write the file if there are new kernels."""
        serialized = self.cache.serialize()
        if serialized is not None and (content := bytes(serialized)) != self._content:
            self._file.update(lambda _: content)


class LoadedEngine:
    """A deserialized engine. The owner must make the GPU current for all calls.

    Args:
        name: Name of the engine, for messages.
        plan: The serialized engine. The caller has checked it: the library trusts its bytes.
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.
        device: The GPU.
        runtime_cache: File for the kernels that TensorRT-RTX compiles.
        weights: Weights of a plan that has none.
        runs_host_code: Allow code for the CPU in the plan. Only for a plan that the user trusts.

    Attributes:
        inputs: The engine's inputs.
        outputs: The engine's outputs.
        ranges: Smallest and largest shape of each input with dynamic dimensions, by name.

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
        runtime_cache: ChecksummedFile | None,
        weights: Weights | None,
        runs_host_code: bool,
    ) -> None:
        self._name, self._library, self._device = name, library, device
        self._logger = keeping_logger(library)
        self._logger.forget()
        # If nobody closes the engine, these are destroyed in this order, as TensorRT asks.
        self._engine: Any = None
        self._runtime_cache: RuntimeCache | None = None
        self._runtime: Any = None
        self._runtime = self._new_runtime(runs_host_code)
        self._engine = self._deserialize(plan)
        if weights is not None:
            self._refit(weights)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == library.TensorIOMode.INPUT for n in names}
        specs = [self._tensor_spec(n) for n in names]
        self.inputs = tuple(t for t in specs if is_input[t.name])
        self.outputs = tuple(t for t in specs if not is_input[t.name])
        self.ranges = {t.name: self._shape_range(t.name) for t in self.inputs if None in t.shape}
        if self.compiles_kernels and runtime_cache is not None:
            self._runtime_cache = RuntimeCache(runtime_cache, self._engine)

    @property
    def compiles_kernels(self) -> bool:
        """True for TensorRT-RTX: it compiles kernels at run time and makes CUDA graphs by itself."""
        return hasattr(self._library, "IRuntimeCache")

    def new_context(self, makes_cuda_graphs: bool = False) -> Context:
        """Make an execution context. We allocate the scratch memory: engines share it and take only what a call needs.

        Args:
            makes_cuda_graphs: Let TensorRT-RTX make CUDA graphs of the context's calls.

        Returns:
            The context.

        Raises:
            EngineError: The library made no context.
            OutOfMemoryError: The GPU has too little memory.
        """
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.compiles_kernels:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if self._runtime_cache is not None:
                config.set_runtime_cache(self._runtime_cache.cache)
            if makes_cuda_graphs:
                config.cuda_graph_strategy = self._library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context(strategy)
        if context is None and self._logger.tells_out_of_memory():
            raise self._out_of_memory()
        if context is None:
            raise EngineError(f"{self._name}: TensorRT made no execution context: {self._logger.words()}")
        return Context(self._name, context, self.ranges, self.outputs, self._logger, self._device.index)

    def save_runtime_cache(self) -> None:
        """Write new kernels to the runtime cache's file, if there is one."""
        if self._runtime_cache is not None:
            self._runtime_cache.save()

    def close(self) -> None:
        """Release the engine. All contexts must be closed before. Closing twice has no effect."""
        self._runtime_cache = None
        self._engine = None
        self._runtime = None

    def _version(self) -> str:
        return f"{self._library.__name__} {self._library.__version__}"

    def _new_runtime(self, runs_host_code: bool) -> Any:
        try:
            runtime = self._library.Runtime(self._logger)
        except TypeError as e:  # raised by the bindings for an object that cannot be made
            raise DeviceError(
                f"GPU {self._device.index}: {self._version()} cannot start: {self._logger.words()} Expected a driver "
                "for its CUDA version."
            ) from e
        if runs_host_code:
            runtime.engine_host_code_allowed = True
        return runtime

    def _deserialize(self, plan: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None and self._logger.tells_out_of_memory():
            raise self._out_of_memory()
        if engine is None:
            raise ModelError(
                f"{self._name}: expected a TensorRT engine built for this GPU and version ({self._device.capability}, "
                f"{self._version()}), found one that cannot be loaded: {self._logger.words()} Build it again: esam-rt "
                "build-engine."
            )
        return engine

    def _refit(self, weights: Weights) -> None:
        """Put the weights of an ONNX file into an engine that has none."""
        found = ""
        try:
            refitter = self._library.Refitter(self._engine, self._logger)
            parser = self._library.OnnxParserRefitter(refitter, self._logger)
            if parser.refit_from_file(str(weights.graph)) and refitter.refit_cuda_engine():
                return
            found = parser_messages(parser)
        except TypeError:  # raised by the bindings, for example if the plan does not accept weights
            pass
        if self._logger.tells_out_of_memory():
            raise self._out_of_memory()
        raise ModelError(
            f"{self._name}: TensorRT could not take its weights from {weights.graph}: {found or self._logger.words()} "
            "Build it again: esam-rt build-engine."
        )

    def _tensor_spec(self, tensor: str) -> TensorSpec:
        """Describe an input or output."""
        dtype = self._engine.get_tensor_dtype(tensor).name
        if dtype not in TENSORRT_DTYPES:
            raise ModelError(f"{self._name}: {tensor}: found {dtype}, expected one of {', '.join(TENSORRT_DTYPES)}.")
        if self._engine.get_tensor_location(tensor) != self._library.TensorLocation.DEVICE:
            raise ModelError(
                f"{self._name}: {tensor}: found a tensor that must lie on the host, expected one on the GPU."
            )
        shape = tuple(None if n < 0 else n for n in self._engine.get_tensor_shape(tensor))
        return TensorSpec(tensor, TENSORRT_DTYPES[dtype], shape)

    def _shape_range(self, tensor: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Smallest and largest shape of an input, from the first optimization profile."""
        smallest, _, largest = self._engine.get_tensor_profile_shape(tensor, 0)
        return tuple(smallest), tuple(largest)

    def _out_of_memory(self) -> OutOfMemoryError:
        return OutOfMemoryError(
            f"{self._name}: not enough memory on GPU {self._device.index} to load it: {self._logger.words()}"
        )
