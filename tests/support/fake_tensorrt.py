"""A stand-in for TensorRT on a `FakeCuda`. An engine is an ONNX model. ONNX Runtime runs it when the stream does."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx
import onnxruntime

from tests.support.fake_cuda import Block, FakeCuda, MemoryKind, Operation

DataType = Enum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "BOOL", "UINT8"])
TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
GraphStrategy = Enum("GraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
Allocation = Enum("Allocation", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"])
DTYPES = {
    "FLOAT": DataType.FLOAT,
    "FLOAT16": DataType.HALF,
    "BFLOAT16": DataType.BF16,
    "INT8": DataType.INT8,
    "INT32": DataType.INT32,
    "INT64": DataType.INT64,
    "BOOL": DataType.BOOL,
    "UINT8": DataType.UINT8,
}
MAGIC = b"fake engine\n"
KNOWN_SHAPES: dict[bytes, dict[tuple[Any, ...], dict[str, tuple[int, ...]]]] = defaultdict(dict)
USED = 0xEE  # bytes of scratch memory after a launch
Profile = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def make_plan(model: bytes, profile: Profile | None = None, **kinds: Any) -> bytes:
    """Make an engine of an ONNX model.

    profile: smallest and largest shape of the inputs with dynamic dimensions. kinds: names of tensors `on_host` and of
    outputs with a `data_dependent` shape; the `version` that built it; if it `brings_code`, so that later versions run
    it; if it is `stripped` of its weights.
    """
    table = json.dumps({"profile": dict(profile or {}), **kinds}).encode()
    return MAGIC + table + b"\n" + model


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace a model's weights by zeros. Refitting finds them again by name."""
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    for weight in stripped.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype.kind in "iub" or values.size < 9:
            continue  # shapes may depend on these values
        weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), weight.name))
    return stripped


class ILogger:
    """Base of loggers."""

    Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    def __init__(self) -> None:
        self.is_made = True


class FakeTensorRT:
    """The part of `tensorrt` that runs engines, on a `FakeCuda`.

    refusal: message of a launch that must fail. at_launch: called when a launch begins. starts: the library finds a
    driver. compiled: kernels that contexts had to compile, with `FakeTensorRTRTX`. launches: for each launch, if its
    context makes CUDA graphs, and the addresses.
    """

    __name__ = "fake_tensorrt"
    __version__ = "10.9.8"
    ILogger, DataType, TensorIOMode, TensorLocation = ILogger, DataType, TensorIOMode, TensorLocation
    IAttention = object
    ExecutionContextAllocationStrategy = Allocation

    def Refitter(self, engine: FakeEngine, logger: ILogger) -> FakeRefitter:  # noqa: N802
        return FakeRefitter(engine, logger)

    def OnnxParserRefitter(self, refitter: FakeRefitter, logger: ILogger) -> FakeParserRefitter:  # noqa: N802
        return FakeParserRefitter(refitter, logger)

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refusal: str | None = None
        self.at_launch: Callable[[], object] = lambda: None
        self.starts = True
        self.driver = "580"
        self.compiled: list[str] = []
        self.launches: list[tuple[bool, tuple[int, ...]]] = []

    def Runtime(self, logger: ILogger) -> FakeRuntime:  # noqa: N802
        assert logger.is_made, "the base class must be initialised"
        if not self.starts:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35.")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeRuntime(self, logger)


class FakeTensorRTRTX(FakeTensorRT):
    """The additions of `tensorrt_rtx`: kernels are compiled at run time and may be kept in a cache."""

    __name__ = "fake_tensorrt_rtx"
    CudaGraphStrategy = GraphStrategy

    class IRuntimeCache:
        """Names of kernels, and the driver that they were compiled for."""

        def __init__(self, driver: str) -> None:
            self.driver, self.kernels = driver, set[str]()

        def serialize(self) -> bytes:
            return json.dumps([self.driver, sorted(self.kernels)]).encode()

        def deserialize(self, blob: bytes) -> bool:
            driver, kernels = json.loads(blob)
            if driver != self.driver:
                return False
            self.kernels = set(kernels)
            return True


class FakeRuntimeConfig:
    """Options of a context."""

    def __init__(self, engine: FakeEngine) -> None:
        self.library = engine.runtime.library
        self.strategy, self.cache = Allocation.STATIC, None
        self._strategy = GraphStrategy.DISABLED

    def set_execution_context_allocation_strategy(self, strategy: Allocation) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeTensorRTRTX.IRuntimeCache:
        return FakeTensorRTRTX.IRuntimeCache(self.library.driver)

    def set_runtime_cache(self, cache: FakeTensorRTRTX.IRuntimeCache) -> bool:
        self.cache = cache
        return True

    @property
    def cuda_graph_strategy(self) -> GraphStrategy:
        return self._strategy

    @cuda_graph_strategy.setter
    def cuda_graph_strategy(self, strategy: GraphStrategy) -> None:
        self._strategy = strategy


@dataclass
class FakeRuntime:
    """Loads engines."""

    library: FakeTensorRT
    logger: Any
    engine_host_code_allowed: bool = False

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        self.logger.log(ILogger.Severity.INFO, "Loaded engine size: 0 MiB")
        if not plan.startswith(MAGIC):
            self.logger.log(ILogger.Severity.ERROR, "assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.")
            return None
        table = json.loads(plan[len(MAGIC) :].split(b"\n", 1)[0])
        if table.get("brings_code") and not self.engine_host_code_allowed:
            self.logger.log(ILogger.Severity.ERROR, "Plan contains host code, which is not allowed.")
            return None
        built = table.get("version", self.library.__version__)
        if built != self.library.__version__ and not table.get("brings_code"):
            self.logger.log(ILogger.Severity.ERROR, f"Version tag does not match: {built}.")
            return None
        cuda = self.library.cuda
        with cuda.lock:
            weights = cuda.allocate(len(plan), MemoryKind.cudaMemoryTypeDevice, cuda.current())
        if weights is None:
            self.logger.log(ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
            return None
        return FakeEngine(self, weights, *plan[len(MAGIC) :].split(b"\n", 1))


class FakeEngine:
    """A loaded engine, with its weights on the GPU."""

    num_optimization_profiles = 1

    def __init__(self, runtime: FakeRuntime, weights: Block, table: bytes, model: bytes) -> None:
        self.runtime, self.weights, self.table = runtime, weights, json.loads(table)
        self.lacks_weights = bool(self.table.get("stripped"))
        self.model = model
        graph = onnx.load_from_string(model).graph
        tensors = [*graph.input, *graph.output]
        self.types = {t.name: t.type.tensor_type.elem_type for t in tensors}
        self.shapes = {
            t.name: tuple(d.dim_value if d.HasField("dim_value") else -1 for d in t.type.tensor_type.shape.dim)
            for t in tensors
        }
        self.inputs = [t.name for t in graph.input]
        self.names = list(self.shapes)
        self.session = self.opened(model)
        self.num_io_tensors = len(self.names)
        self.known = KNOWN_SHAPES[hashlib.sha256(model).digest()]

    def opened(self, model: bytes) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DTYPES[onnx.TensorProto.DataType.Name(self.types[name])]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if name in self.table.get("on_host", ()) else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        low, high = self.table["profile"][name]
        return [tuple(low), tuple(high), tuple(high)]

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig(self)

    def create_execution_context(self, of: Allocation | FakeRuntimeConfig) -> FakeContext:
        config = of if isinstance(of, FakeRuntimeConfig) else None
        assert (of if config is None else config.strategy) is Allocation.USER_MANAGED
        if self.lacks_weights:
            raise self.runtime.library.cuda.violated("a context of an engine without its weights")
        return FakeContext(self, config)

    def __del__(self) -> None:
        with self.runtime.library.cuda.lock:
            self.runtime.library.cuda.free(self.weights)

    def bytes_of(self, name: str, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(self.types[name]).itemsize

    def run(
        self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int], outputs: bool = True
    ) -> list[Any]:
        """Run ONNX Runtime on memory at addresses. If outputs is False, it allocates the outputs itself."""
        binding = self.session.io_binding()
        for name in self.names:
            if name in self.inputs:
                binding.bind_input(name, "cpu", 0, self.types[name], shapes[name], addresses[name])
            elif outputs:
                binding.bind_output(name, "cpu", 0, self.types[name], shapes[name], addresses[name])
            else:
                binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()

    def output_shapes(self, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Find the shapes of the outputs with a run on zeros."""
        key = tuple(inputs.items())
        if key not in self.known:
            zeros = {name: np.zeros(self.bytes_of(name, shape), np.uint8) for name, shape in inputs.items()}
            values = self.run(inputs, {name: array.ctypes.data for name, array in zeros.items()}, outputs=False)
            names = [name for name in self.names if name not in self.inputs]
            self.known[key] = {name: tuple(v.shape()) for name, v in zip(names, values, strict=True)}
        free = dict.fromkeys(self.table.get("data_dependent", ()), (-1,))
        return {**self.known[key], **free}


class FakeRefitter:
    """Puts weights into an engine that has none."""

    def __init__(self, engine: FakeEngine, logger: Any) -> None:
        self.engine, self.logger, self.model = engine, logger, b""

    def refit_cuda_engine(self) -> bool:
        self.engine.session, self.engine.lacks_weights = self.engine.opened(self.model), False
        return True


class FakeParserRefitter:
    """Reads the weights of an ONNX file."""

    num_errors = 0

    def __init__(self, refitter: FakeRefitter, logger: Any) -> None:
        self.refitter, self.logger = refitter, logger

    def refit_from_file(self, path: str) -> bool:
        model = onnx.load(path)
        if without_weights(model).SerializeToString() != self.refitter.engine.model:
            self.logger.log(ILogger.Severity.ERROR, "The model's weights are not those of the engine.")
            return False
        self.refitter.model = model.SerializeToString()
        return True


class FakeContext:
    """An execution context with scratch memory of the caller."""

    def __init__(self, engine: FakeEngine, config: FakeRuntimeConfig | None) -> None:
        self.engine, self.cache = engine, None if config is None else config.cache
        self.makes_graphs = config is not None and config.cuda_graph_strategy is GraphStrategy.WHOLE_GRAPH_CAPTURE
        self.scratch: tuple[int, int] | None = None
        self.scratch_bytes: int | None = None
        self.changes = 0
        self.is_warm = False
        self.library, self.logger = engine.runtime.library, engine.runtime.logger
        self.shapes = {name: shape for name in engine.inputs if -1 not in (shape := engine.shapes[name])}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            self.logger.log(ILogger.Severity.ERROR, f"Static dimension mismatch of {name} while setting input shape.")
            return False
        self.shapes[name] = shape
        self.scratch_bytes = None
        self.changes += 1
        self.is_warm = False
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        """Scratch memory: 4 KB and the size of the inputs with dynamic dimensions."""
        if missing := self.infer_shapes():
            raise self.library.cuda.violated(f"scratch memory asked for without the shape of {missing}")
        free = [name for name in self.engine.inputs if -1 in self.engine.shapes[name]]
        self.scratch_bytes = 4096 + sum(self.engine.bytes_of(name, self.shapes[name]) for name in free)
        return self.scratch_bytes

    def set_device_memory(self, memory: int, size: int) -> None:
        if self.scratch_bytes is None or size < self.scratch_bytes or memory % 256:
            raise self.library.cuda.violated(f"{size} bytes of scratch memory, expected {self.scratch_bytes}")
        self.scratch = memory, size

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.engine.inputs:
            return self.shapes.get(name, self.engine.shapes[name])
        return self.engine.shapes[name] if self.infer_shapes() else self.engine.output_shapes(self._inputs())[name]

    def _inputs(self) -> dict[str, tuple[int, ...]]:
        return {name: self.shapes[name] for name in self.engine.inputs}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine.names or memory % 256:
            self.logger.log(ILogger.Severity.ERROR, f"Unknown or unaligned tensor {name}.")
            return False
        self.addresses[name] = memory
        self.changes += 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda, engine = self.library.cuda, self.engine
        self.library.at_launch()
        if self.library.refusal is not None:
            self.logger.log(ILogger.Severity.ERROR, self.library.refusal)
            return False
        with cuda.lock:
            if missing := [*self.infer_shapes(), *(n for n in engine.names if n not in self.addresses)]:
                raise cuda.violated(f"launch without shape or address of {missing}")
            if self.scratch is None:
                raise cuda.violated("launch without scratch memory")
            if self.cache is not None:
                new = {f"{name} {shape}" for name, shape in self.shapes.items()} - self.cache.kernels
                self.library.compiled += sorted(new)
                self.cache.kernels |= new
            shapes = {**self._inputs(), **engine.output_shapes(self._inputs())}
            addresses = dict(self.addresses)
            blocks = [cuda.device_block(addresses[n], max(1, engine.bytes_of(n, shapes[n]))) for n in engine.names]
            blocks.append(cuda.device_block(*self.scratch))
            if any(b.device != engine.weights.device for b in blocks):
                raise cuda.violated("memory of another GPU")
            run = functools.partial(engine.run, shapes, addresses)
            use = functools.partial(ctypes.memset, self.scratch[0], USED, self.scratch[1])
            if cuda.is_capturing(stream_handle) and not self.is_warm:
                raise cuda.violated("a capture before the shapes were run once")
            self.library.launches.append((self.makes_graphs, (*addresses.values(), self.scratch[0])))
            self.changes += 1
            self.is_warm = not cuda.is_capturing(stream_handle)
            this, then = weakref.ref(self), self.changes

            def stays() -> bool:
                return this() is not None and this().changes == then

            cuda.enqueue(stream_handle, Operation(lambda: (use(), run()), tuple(blocks), id(self), stays))
        # The caller may free its memory: later calls must set it again.
        self.addresses.clear()
        self.scratch = None
        return True

    def __del__(self) -> None:
        cuda = self.library.cuda
        with cuda.lock:
            if cuda.uses(lambda operation: operation.context == id(self)):
                raise cuda.violated("context destroyed while a stream runs it")
