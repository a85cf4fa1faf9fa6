"""An execution context of TensorRT that uses scratch memory of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from esam_rt.engines.cuda.device import DeviceBuffer
from esam_rt.engines.engine import TensorSpec
from esam_rt.errors import EngineError, OutOfMemoryError

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class CallShapes:
    """Shapes of one call.

    Attributes:
        inputs: Shape of each input with dynamic dimensions, by name.
        outputs: Shape of each output, by name.
        scratch_bytes: Scratch memory that the call needs.
    """

    inputs: Shapes
    outputs: Shapes
    scratch_bytes: int


class Context:
    """An ``IExecutionContext`` without scratch memory of its own. Only one thread at a time may use it.

    Args:
        name: Name of the engine, for messages.
        context: The library's context.
        inputs: Names of the inputs with dynamic dimensions.
        outputs: The engine's outputs.
        logger: Logger of ``keeping_logger``.
        gpu: Index of the GPU, for messages.
    """

    def __init__(
        self, name: str, context: Any, inputs: Iterable[str], outputs: Iterable[TensorSpec], logger: Any, gpu: int
    ) -> None:
        self._name, self._logger, self._gpu = name, logger, gpu
        self._context: Any = context
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._shapes: CallShapes | None = None

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> CallShapes:
        """Set the shapes of the next call.

        Args:
            shapes: Shape of each input, by name.

        Returns:
            The shapes of the inputs and outputs, and the scratch memory.

        Raises:
            EngineError: The library does not accept the shapes, or the outputs' shapes depend on the inputs' values.
            OutOfMemoryError: The GPU has too little memory.
        """
        inputs = {name: shapes[name] for name in self._inputs}
        if self._shapes is not None and self._shapes.inputs == inputs:
            return self._shapes
        self._shapes = None  # a failure leaves the context with some of the new shapes
        for name, shape in inputs.items():
            self._require(self._context.set_input_shape(name, shape), f"does not accept shape {shape} of {name}")
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as e:
            raise EngineError(f"{self._name}: TensorRT could not infer shapes: {e}") from e
        outputs = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in self._outputs}
        unknown = [name for name, shape in outputs.items() if any(n < 0 for n in shape)]
        if missing or unknown:
            raise EngineError(
                f"{self._name}: {', '.join([*missing, *unknown])}: expected shapes that follow from those of the "
                "inputs, found shapes that depend on the inputs' values."
            )
        self._shapes = CallShapes(inputs, outputs, self._context.update_device_memory_size_for_shapes())
        return self._shapes

    def launch(self, addresses: Mapping[str, int], scratch: DeviceBuffer, stream: int) -> None:
        """Launch a call with the shapes that were set.

        Args:
            addresses: Address of each input and output on the GPU, by name.
            scratch: Scratch memory.
            stream: Address of the CUDA stream.

        Raises:
            EngineError: The library refuses the call.
            OutOfMemoryError: The GPU has too little memory.
        """
        for name, address in addresses.items():
            self._require(self._context.set_tensor_address(name, address), f"does not accept the address of {name}")
        self._context.set_device_memory(scratch.pointer, scratch.nbytes)
        self._require(self._context.execute_async_v3(stream), "could not run")

    def close(self) -> None:
        """Release the library's context, also if somebody still holds this object, for example a traceback."""
        self._context = self._shapes = None

    def _require(self, is_done: bool, failure: str) -> None:
        """Raise an error with the library's messages unless a call succeeded."""
        if is_done:
            return
        words = self._logger.words()
        if self._logger.tells_out_of_memory():
            raise OutOfMemoryError(f"{self._name}: out of memory on GPU {self._gpu}; use smaller batches: {words}")
        raise EngineError(f"{self._name}: TensorRT {failure}: {words}")
