"""Calls that repeat: same shapes, same addresses, one CUDA graph in place of a launch for each kernel."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from esam_rt.engines.cuda.device import CudaDevice, CudaGraph, DeviceBuffer
from esam_rt.engines.tensorrt.execution_context import Context, Memory

REPLAYS = 3  # batches whose outputs may be in use at once: one is decoded, two wait for their masks


@dataclass(eq=False)
class _Lease:
    """Whoever holds it has outputs in this memory."""

    memory: Memory


class Replay:
    """A call on memory that stays, as a CUDA graph once it was captured.

    context: prepared for the call, and used for nothing else: one that was captured must not change.
    """

    def __init__(self, device: CudaDevice, context: Context, memory: Memory) -> None:
        self.memory = memory
        self._device, self._context = device, context
        self._graph: CudaGraph | None = None
        self._lease: weakref.ref[_Lease] | None = None

    @property
    def is_lent(self) -> bool:
        """Whether somebody has outputs of the last call, which the next would overwrite."""
        return self._lease is not None and self._lease() is not None

    def launch(self, addresses: Mapping[str, int]) -> None:
        """Give the call to the device's stream; the addresses are the same each time."""
        if self._graph is not None:
            self._graph.launch()
        else:
            self._context.launch(addresses, self.memory.scratch, self._device.stream)

    def capture(self, addresses: Mapping[str, int]) -> None:
        """Capture the call, unless it was, after a launch that is done: the first one of a shape may do more than those
        that follow. EngineError or OutOfMemoryError if it cannot be captured."""
        if self._graph is None:
            launch = self._context.launch
            self._graph = CudaGraph(self._device, lambda stream: launch(addresses, self.memory.scratch, stream))

    def lend(self) -> dict[str, DeviceBuffer]:
        """The outputs that are kept; until they are closed or garbage, `is_lent`."""
        lease = _Lease(self.memory)
        self._lease = weakref.ref(lease)
        return {
            name: DeviceBuffer(self._device, buffer.pointer, buffer.dtype, buffer.shape, owner=lease)
            for name, buffer in self.memory.kept.items()
        }

    def close(self) -> None:
        """Free the graph and the memory; outputs that somebody has go with the last of them."""
        if self._graph is not None:
            self._graph.close()
        self.memory.close(with_kept=not self.is_lent)


class Replays:
    """Finds the calls of an engine that repeat. new_context: makes the contexts that are captured.

    captures: False where the library makes CUDA graphs by itself, of calls whose shapes and addresses stay. A call is
    replayed on any of up to REPLAYS pieces of memory whose outputs nobody has any more.
    """

    def __init__(self, device: CudaDevice, new_context: Callable[[], Context], captures: bool) -> None:
        self.captures = captures
        self._device, self._new_context = device, new_context
        self._contexts: list[Context] = []  # one for each replay, used again by later ones
        self._last: Hashable = None
        self._key: Hashable = None
        self._made: list[Replay] = []

    def of(self, key: Hashable, shapes: Mapping[str, tuple[int, ...]], allocate: Callable[[], Memory]) -> Replay | None:
        """A replay of a call with this key; None where it is to be run as any: it is not that of the call before, or
        all outputs are still in somebody's hands. EngineError or OutOfMemoryError where none can be made."""
        is_repeated, self._last = key == self._last, key
        if not is_repeated:
            return None
        if self._key != key:
            if any(replay.is_lent for replay in self._made):
                return None
            self.forget()
            self._key = key
        free = next((replay for replay in self._made if not replay.is_lent), None)
        if free is None and len(self._made) < REPLAYS:
            if len(self._contexts) == len(self._made):
                self._contexts.append(self._new_context())
            context = self._contexts[len(self._made)]
            context.prepared(shapes)
            free = Replay(self._device, context, allocate())
            self._made.append(free)
        return free

    def forget(self) -> None:
        """Free what the replays hold."""
        while self._made:
            self._made.pop().close()
        self._key = None

    def close(self) -> None:
        """Free everything."""
        self.forget()
        while self._contexts:
            self._contexts.pop().close()
