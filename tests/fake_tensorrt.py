"""TensorRT on a `FakeCuda`: an engine is an ONNX model, which ONNX Runtime executes when the stream gets there."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx
import onnxruntime

from .fake_cuda import Block, FakeCuda, MemoryKind, Operation

DataType = Enum("DataType", ["FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "BOOL", "UINT8"])
TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
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
Profile = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]


def make_plan(model: bytes, profile: Profile | None = None, **kinds: list[str]) -> bytes:
    """An ONNX model as engine. profile: least and greatest shape of inputs with free extents. kinds: names of tensors
    `on_host`, and of outputs of which the shape is `data_dependent`."""
    table = json.dumps({"profile": dict(profile or {}), **kinds}).encode()
    return MAGIC + table + b"\n" + model


class ILogger:
    """Base of loggers."""

    Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    def __init__(self) -> None:
        self.is_made = True


class FakeTensorRT:
    """The part of `tensorrt` that runs engines, on a `FakeCuda`.

    refusal: what a launch complains of and fails with. at_launch: called when one begins. starts: whether the library
    finds a driver that it can use.
    """

    __name__ = "fake_tensorrt"
    __version__ = "10.9.8"
    ILogger, DataType, TensorIOMode, TensorLocation = ILogger, DataType, TensorIOMode, TensorLocation

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refusal: str | None = None
        self.at_launch: Callable[[], object] = lambda: None
        self.starts = True

    def Runtime(self, logger: ILogger) -> FakeRuntime:  # noqa: N802
        assert logger.is_made, "the base class must be initialised"
        if not self.starts:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35.")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeRuntime(self, logger)


@dataclass
class FakeRuntime:
    """Loads engines."""

    library: FakeTensorRT
    logger: Any

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        self.logger.log(ILogger.Severity.INFO, "Loaded engine size: 0 MiB")
        if not plan.startswith(MAGIC):
            self.logger.log(ILogger.Severity.ERROR, "assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.")
            return None
        return FakeEngine(self, *plan[len(MAGIC) :].split(b"\n", 1))


class FakeEngine:
    """A loaded engine."""

    num_optimization_profiles = 1

    def __init__(self, runtime: FakeRuntime, table: bytes, model: bytes) -> None:
        self.runtime, self.table = runtime, json.loads(table)
        graph = onnx.load_from_string(model).graph
        tensors = [*graph.input, *graph.output]
        self.types = {t.name: t.type.tensor_type.elem_type for t in tensors}
        self.shapes = {
            t.name: tuple(d.dim_value if d.HasField("dim_value") else -1 for d in t.type.tensor_type.shape.dim)
            for t in tensors
        }
        self.inputs = [t.name for t in graph.input]
        self.names = list(self.shapes)
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.num_io_tensors = len(self.names)
        self.known: dict[tuple[Any, ...], dict[str, tuple[int, ...]]] = {}

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

    def create_execution_context(self) -> FakeContext | None:
        cuda = self.runtime.library.cuda
        with cuda.lock:
            scratch = cuda.allocate(4096, MemoryKind.cudaMemoryTypeDevice, cuda.current())
        if scratch is None:
            self.runtime.logger.log(ILogger.Severity.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
            return None
        return FakeContext(self, scratch)

    def bytes_of(self, name: str, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(self.types[name]).itemsize

    def run(
        self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int], outputs: bool = True
    ) -> list[Any]:
        """ONNX Runtime on memory at addresses; without outputs it allocates those itself."""
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
        """Shapes of the outputs, found by running on zeros."""
        key = tuple(inputs.items())
        if key not in self.known:
            zeros = {name: np.zeros(self.bytes_of(name, shape), np.uint8) for name, shape in inputs.items()}
            values = self.run(inputs, {name: array.ctypes.data for name, array in zeros.items()}, outputs=False)
            names = [name for name in self.names if name not in self.inputs]
            self.known[key] = {name: tuple(v.shape()) for name, v in zip(names, values, strict=True)}
        free = dict.fromkeys(self.table.get("data_dependent", ()), (-1,))
        return {**self.known[key], **free}


class FakeContext:
    """An execution context, with scratch memory of its own."""

    def __init__(self, engine: FakeEngine, scratch: Block) -> None:
        self.engine, self.scratch = engine, scratch
        self.library, self.logger = engine.runtime.library, engine.runtime.logger
        self.shapes = {name: shape for name in engine.inputs if -1 not in (shape := engine.shapes[name])}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        if not all(least <= n <= most for least, n, most in zip(low, shape, high, strict=True)):
            self.logger.log(ILogger.Severity.ERROR, f"Static dimension mismatch of {name} while setting input shape.")
            return False
        self.shapes[name] = shape
        return True

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
            shapes = {**self._inputs(), **engine.output_shapes(self._inputs())}
            addresses = dict(self.addresses)
            blocks = [cuda.device_block(addresses[n], max(1, engine.bytes_of(n, shapes[n]))) for n in engine.names]
            if any(b.device != self.scratch.device for b in blocks):
                raise cuda.violated("memory of another GPU")
            run = functools.partial(engine.run, shapes, addresses)
            cuda.enqueue(stream_handle, Operation(run, tuple(blocks), id(self)))
        self.addresses.clear()  # the caller's memory may go: what stays here would be stale
        return True

    def __del__(self) -> None:
        cuda = self.library.cuda
        with cuda.lock:
            if cuda.uses(lambda operation: operation.context == id(self)):
                raise cuda.violated("context destroyed while a stream runs it")
            cuda.free(self.scratch)
