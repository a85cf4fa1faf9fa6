"""One call of a TensorRT engine: which tensors pass through the host, and where they lie in memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from esam_rt.engines.cuda.array_interface import ALIGNMENT
from esam_rt.engines.cuda.cuda_graph_policy import CallKey
from esam_rt.engines.cuda.device import CudaDevice, DeviceBuffer
from esam_rt.engines.engine import TensorSpec
from esam_rt.engines.tensorrt.execution_context import CallShapes
from esam_rt.rounding import ceil_div


@dataclass(frozen=True)
class CallMemory:
    """GPU memory of one call.

    Attributes:
        input_staging: The inputs that come from the host, in one block.
        output_staging: The outputs that go to the host, in one block.
        scratch: Scratch memory of the library.
        outputs: The outputs that stay on the device, by name.
    """

    input_staging: DeviceBuffer
    output_staging: DeviceBuffer
    scratch: DeviceBuffer
    outputs: Mapping[str, DeviceBuffer]

    def close(self, with_outputs: bool) -> None:
        """Free the memory in the order of the stream.

        Args:
            with_outputs: Free also the outputs that stay on the device.
        """
        for buffer in (self.input_staging, self.output_staging, self.scratch):
            buffer.close()
        for buffer in self.outputs.values() if with_outputs else ():
            buffer.close()


@dataclass(frozen=True)
class _Block:
    """Offset of each tensor in a block of memory, in bytes, and the size of the block."""

    offsets: dict[str, int]
    nbytes: int

    @classmethod
    def of(cls, sizes: Iterable[tuple[str, int]]) -> Self:
        """Place tensors of these sizes one after the other, aligned."""
        offsets, end = {}, 0
        for name, size in sizes:
            offsets[name] = ceil_div(end, ALIGNMENT) * ALIGNMENT
            end = offsets[name] + max(1, size)  # an empty tensor needs an address too
        return cls(offsets, end)

    def addresses(self, pointer: int) -> dict[str, int]:
        """Addresses of the tensors, if the block starts at ``pointer``."""
        return {name: pointer + offset for name, offset in self.offsets.items()}

    def array(self, memory: NDArray[np.uint8], name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """A tensor's array in the block's memory."""
        start = self.offsets[name]
        return memory[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


class DeviceCall:
    """The layout of one call. All inputs from the host are copied at once, and so are all outputs to the host.

    Args:
        inputs: The engine's inputs.
        outputs: The engine's outputs.
        arrays: Arrays of the feed, by name.
        shapes: Shapes of the call.
        outputs_on_device: Names of the outputs that stay on the device.
    """

    def __init__(
        self,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        arrays: Mapping[str, NDArray[Any] | DeviceBuffer],
        shapes: CallShapes,
        outputs_on_device: Collection[str],
    ) -> None:
        self.shapes, self._outputs = shapes, outputs
        # In the order of the engine's inputs, not of the feed: graphs need the same addresses in each call.
        self._host_inputs = {t.name: a for t in inputs if isinstance(a := arrays[t.name], np.ndarray)}
        self._device_inputs = {t.name: a.pointer for t in inputs if isinstance(a := arrays[t.name], DeviceBuffer)}
        self._host_outputs = [t for t in outputs if t.name not in outputs_on_device]
        self._device_outputs = [t for t in outputs if t.name in outputs_on_device]
        self._input_block = _Block.of((name, a.nbytes) for name, a in self._host_inputs.items())
        self._output_block = _Block.of(
            (t.name, math.prod(shapes.outputs[t.name]) * t.dtype.itemsize) for t in self._host_outputs
        )
        names = tuple(t.name for t in self._host_outputs)
        self.key = CallKey(tuple(shapes.inputs.items()), (names, tuple(self._device_inputs.items())))

    @property
    def input_bytes(self) -> int:
        """Size of the inputs that come from the host."""
        return self._input_block.nbytes

    @property
    def output_bytes(self) -> int:
        """Size of the outputs that go to the host."""
        return self._output_block.nbytes

    def allocate(self, device: CudaDevice) -> CallMemory:
        """Allocate the GPU memory of the call.

        Args:
            device: The GPU.

        Returns:
            The memory.

        Raises:
            OutOfMemoryError: The GPU has too little memory. Nothing stays allocated.
        """
        with ExitStack() as on_error:
            staging_in, staging_out, scratch = (
                on_error.enter_context(device.allocate((size,), np.uint8))
                for size in (self.input_bytes, self.output_bytes, self.shapes.scratch_bytes)
            )
            outputs = {
                t.name: on_error.enter_context(device.allocate(self.shapes.outputs[t.name], t.dtype))
                for t in self._device_outputs
            }
            on_error.pop_all()
        return CallMemory(staging_in, staging_out, scratch, outputs)

    def addresses(self, memory: CallMemory) -> dict[str, int]:
        """List the addresses of all inputs and outputs.

        Args:
            memory: Memory of ``allocate``.

        Returns:
            Addresses on the GPU, by name.
        """
        return {
            **self._device_inputs,
            **self._input_block.addresses(memory.input_staging.pointer),
            **self._output_block.addresses(memory.output_staging.pointer),
            **{name: buffer.pointer for name, buffer in memory.outputs.items()},
        }

    def write_inputs(self, staging: NDArray[np.uint8]) -> None:
        """Write the inputs that come from the host.

        Args:
            staging: Pinned memory, at least ``input_bytes`` long.
        """
        for name, array in self._host_inputs.items():
            self._input_block.array(staging, name, array.dtype, array.shape)[...] = array

    def read_outputs(self, staging: NDArray[np.uint8], on_device: Mapping[str, DeviceBuffer]) -> dict[str, Any]:
        """Collect the outputs in the engine's order.

        Args:
            staging: Pinned memory with the outputs that went to the host. They are copied.
            on_device: The outputs that stay on the device, by name.

        Returns:
            All outputs by name.
        """
        shapes = self.shapes.outputs
        return {
            t.name: on_device[t.name]
            if t.name in on_device
            else self._output_block.array(staging, t.name, t.dtype, shapes[t.name]).copy()
            for t in self._outputs
        }
