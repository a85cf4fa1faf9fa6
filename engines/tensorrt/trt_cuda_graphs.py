"""CUDA graphs of TensorRT: capture a call that repeats, and replay it on fixed memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esam_rt.engines.cuda.cuda_graph_policy import CapturedGraph, GraphCache
from esam_rt.engines.cuda.device import CudaDevice, DeviceBuffer
from esam_rt.engines.cuda.launch import CudaGraph
from esam_rt.engines.tensorrt.device_call import CallMemory, DeviceCall
from esam_rt.engines.tensorrt.execution_context import Context
from esam_rt.errors import EngineError, OutOfMemoryError

MAX_GRAPHS = 3
"""Graphs of one engine: one batch is decoded while the outputs of two others wait for their masks."""


class TensorRTGraph(CapturedGraph):
    """A call on fixed memory. It is a CUDA graph after ``capture``.

    Args:
        device: The GPU.
        context: Context with the call's shapes. Nothing else may use it: a captured context must not change.
        memory: The call's memory.
    """

    def __init__(self, device: CudaDevice, context: Context, memory: CallMemory) -> None:
        super().__init__()
        self.memory = memory
        self._device, self._context = device, context
        self._graph: CudaGraph | None = None

    def launch(self, addresses: Mapping[str, int]) -> None:
        """Launch the call on the device's stream.

        Args:
            addresses: Address of each input and output, by name. They are the same in each call.
        """
        if self._graph is not None:
            self._graph.launch()
        else:
            self._context.launch(addresses, self.memory.scratch, self._device.stream)

    def capture(self, addresses: Mapping[str, int]) -> None:
        """Capture the call, once. A launch of it must be done: the first launch of a shape may do more than later ones.

        Args:
            addresses: Address of each input and output, by name.

        Raises:
            EngineError: The call cannot be captured.
            OutOfMemoryError: The GPU has too little memory.
        """
        if self._graph is None:
            launch = self._context.launch
            self._graph = CudaGraph(self._device, lambda stream: launch(addresses, self.memory.scratch, stream))

    def lend_outputs(self) -> dict[str, DeviceBuffer]:
        """Hand out the outputs that stay on the device. The graph is in use until all are closed or garbage.

        Returns:
            The outputs by name.
        """
        lease = self.new_lease(self.memory)
        return {
            name: DeviceBuffer(self._device, buffer.pointer, buffer.dtype, buffer.shape, owner=lease)
            for name, buffer in self.memory.outputs.items()
        }

    def close(self) -> None:
        """Free the graph and its memory. Outputs that are in use keep theirs."""
        if self._graph is not None:
            self._graph.close()
        self.memory.close(with_outputs=not self.is_in_use)


class TensorRTGraphs:
    """The graphs of an engine, with the policy of ``GraphCache``. The owner must serialize the calls of all methods.

    Args:
        name: Name of the engine, for messages.
        device: The GPU.
        new_context: Makes a context for a graph.
        captures: False if the library makes CUDA graphs by itself, of calls with fixed shapes and addresses.
    """

    def __init__(self, name: str, device: CudaDevice, new_context: Callable[[], Context], captures: bool) -> None:
        self._graphs: GraphCache[TensorRTGraph] = GraphCache(name, MAX_GRAPHS)
        self._contexts: list[Context] = []  # one for each graph, reused by later graphs
        self._device, self._new_context, self._captures = device, new_context, captures

    def find(self, call: DeviceCall) -> TensorRTGraph | None:
        """Find a graph for a call, or make one. A failure ends the use of graphs and logs a warning.

        Args:
            call: The call.

        Returns:
            A graph that is not in use, or None if the call must run without one.
        """
        try:
            return self._graphs.find(call.key, lambda: self._new_graph(call))
        except (EngineError, OutOfMemoryError) as e:
            self._stop(e)
            return None
        finally:
            self._graphs.note(call.key)

    def capture(self, graph: TensorRTGraph, addresses: Mapping[str, int]) -> None:
        """Capture a call after its launch. A failure ends the use of graphs and logs a warning.

        Args:
            graph: Graph of ``find``.
            addresses: Address of each input and output, by name.
        """
        if self._captures:
            try:
                graph.capture(addresses)
            except (EngineError, OutOfMemoryError) as e:
                self._stop(e)

    def discard(self) -> None:
        """Free all graphs after a failed launch. Later calls may be captured again."""
        self._graphs.discard()

    def close(self) -> None:
        """Free everything. Closing twice has no effect."""
        self._graphs.close()
        self._close_contexts()

    def _new_graph(self, call: DeviceCall) -> TensorRTGraph:
        if len(self._contexts) == len(self._graphs):
            self._contexts.append(self._new_context())
        context = self._contexts[len(self._graphs)]
        context.set_shapes(call.shapes.inputs)
        return TensorRTGraph(self._device, context, call.allocate(self._device))

    def _stop(self, error: Exception) -> None:
        self._graphs.stop(error)
        self._close_contexts()

    def _close_contexts(self) -> None:
        while self._contexts:
            self._contexts.pop().close()
