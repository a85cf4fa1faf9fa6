"""An execution context of TensorRT with the memory of its calls, which is ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from esam_rt.engines.cuda.device import CudaDevice, DeviceBuffer
from esam_rt.engines.engine import Tensor
from esam_rt.errors import EngineError, OutOfMemoryError

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Call:
    """Shapes of the inputs whose extents are free, those of the outputs that follow, and the scratch memory."""

    inputs: Shapes
    outputs: Shapes
    scratch_bytes: int


@dataclass(frozen=True)
class Memory:
    """What a call uses on the GPU: what the host feeds and fetches, each in one piece, scratch, and outputs to keep."""

    fed: DeviceBuffer
    fetched: DeviceBuffer
    scratch: DeviceBuffer
    kept: Mapping[str, DeviceBuffer]

    @classmethod
    def allocate(
        cls, device: CudaDevice, fed_bytes: int, fetched_bytes: int, call: Call, kept: Iterable[Tensor]
    ) -> Self:
        """All of it, or OutOfMemoryError."""
        with ExitStack() as on_error:
            fed, fetched, scratch = (
                on_error.enter_context(device.allocate((size,), np.uint8))
                for size in (fed_bytes, fetched_bytes, call.scratch_bytes)
            )
            outputs = {t.name: on_error.enter_context(device.allocate(call.outputs[t.name], t.dtype)) for t in kept}
            on_error.pop_all()
        return cls(fed, fetched, scratch, outputs)

    def close(self, with_kept: bool) -> None:
        """Free it, in the stream's order."""
        for buffer in (self.fed, self.fetched, self.scratch, *(self.kept.values() if with_kept else ())):
            buffer.close()


class Context:
    """An `IExecutionContext` without scratch memory of its own; for one thread at a time.

    name: of the engine, for messages. ranges: names of the inputs with free extents. logger: what the library complains
    to.
    """

    def __init__(
        self, name: str, context: Any, inputs: Iterable[str], outputs: Iterable[Tensor], logger: Any, gpu: int
    ) -> None:
        self._name, self._logger, self._gpu = name, logger, gpu
        self._context: Any = context
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._call: Call | None = None

    def prepared(self, shapes: Mapping[str, tuple[int, ...]]) -> Call:
        """The call of inputs of these shapes, which the context has then."""
        inputs = {name: shapes[name] for name in self._inputs}
        if self._call is not None and self._call.inputs == inputs:
            return self._call
        self._call = None  # a failure leaves the context with shapes of both
        for name, shape in inputs.items():
            self._require(self._context.set_input_shape(name, shape), f"does not take shape {shape} of {name}")
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as e:
            raise EngineError(f"{self._name}: TensorRT could not infer shapes: {e}") from e
        outputs = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in self._outputs}
        free = [name for name, shape in outputs.items() if any(n < 0 for n in shape)]
        if missing or free:
            raise EngineError(
                f"{self._name}: {', '.join([*missing, *free])}: expected shapes that follow from those of the inputs, "
                "found ones that depend on their values."
            )
        self._call = Call(inputs, outputs, self._context.update_device_memory_size_for_shapes())
        return self._call

    def launch(self, addresses: Mapping[str, int], scratch: DeviceBuffer, stream: int) -> None:
        """Give a call of the shapes that were prepared to a stream; EngineError, or OutOfMemoryError, if it refuses."""
        for name, address in addresses.items():
            self._require(self._context.set_tensor_address(name, address), f"does not take the address of {name}")
        self._context.set_device_memory(scratch.pointer, scratch.nbytes)
        self._require(self._context.execute_async_v3(stream), "could not run")

    def close(self) -> None:
        """Let go of the library's context: who still has this one, such as the traceback of an error, keeps nothing."""
        self._context = self._call = None

    def _require(self, done: bool, what: str) -> None:
        """Raise with the library's words unless done."""
        if done:
            return
        words = self._logger.words()
        if self._logger.tells_out_of_memory():
            raise OutOfMemoryError(f"{self._name}: out of memory on GPU {self._gpu}; use smaller batches: {words}")
        raise EngineError(f"{self._name}: TensorRT {what}: {words}")
