"""Work on a GPU that is prepared once and launched many times: kernels and CUDA graphs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from esam_rt.engines.cuda.device import CudaDevice


class CudaKernel:
    """A kernel in PTX. The driver compiles it.

    Args:
        device: The GPU.
        ptx: Text of the PTX.
        name: Name of the kernel in it.
    """

    def __init__(self, device: CudaDevice, ptx: bytes, name: str) -> None:
        self._device, self._calls = device, device.calls
        with self._calls.current_for_driver():
            module = self._calls("cuModuleLoadData", ptx)
            weakref.finalize(self, self._calls.release, "cuModuleUnload", module)
            self._function = self._calls("cuModuleGetFunction", module, name.encode())

    def launch(self, grid_xy: tuple[int, int], block_xy: tuple[int, int], arguments: Sequence[Any]) -> None:
        """Launch the kernel on the device's stream.

        Args:
            grid_xy: Number of blocks.
            block_xy: Number of threads of a block.
            arguments: The kernel's arguments, as ctypes.
        """
        values, types = tuple(a.value for a in arguments), tuple(map(type, arguments))
        with self._calls.current_for_driver():
            self._calls(
                "cuLaunchKernel", self._function, *grid_xy, 1, *block_xy, 1, 0, self._device.stream, (values, types), 0
            )


class CudaGraph:
    """Work that is captured once and launched many times as a whole.

    The memory that the work uses must stay where it is, and the object that enqueued it must not change, as long as the
    graph is launched.

    Args:
        device: The GPU.
        enqueue: Gives the work to the stream whose address it gets. It must not wait or allocate.

    Raises:
        EngineError: The work cannot be captured.
        OutOfMemoryError: The GPU has too little memory.
    """

    def __init__(self, device: CudaDevice, enqueue: Callable[[int], object]) -> None:
        self._device, self._calls = device, device.calls
        calls, cuda = self._calls, self._calls.runtime
        with calls.current(), ExitStack() as at_end:
            # A new stream: work that other threads give to the device's stream must not come into the graph.
            stream = int(calls("cudaStreamCreateWithFlags", cuda.cudaStreamNonBlocking))
            at_end.callback(calls.release, "cudaStreamDestroy", stream)
            calls("cudaStreamBeginCapture", stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
            try:
                enqueue(stream)
            finally:
                graph = calls("cudaStreamEndCapture", stream)
                at_end.callback(calls.release, "cudaGraphDestroy", graph)
            self._launchable = calls("cudaGraphInstantiate", graph, 0)
        self._finalizer = weakref.finalize(self, calls.release, "cudaGraphExecDestroy", self._launchable)

    def launch(self) -> None:
        """Launch the work on the device's stream."""
        with self._calls.current():
            self._calls("cudaGraphLaunch", self._launchable, self._device.stream)

    def close(self) -> None:
        """Destroy the graph after its last launch. Closing twice has no effect."""
        self._finalizer()
