"""The policy of CUDA graphs: which calls of an engine are captured and replayed.

A CUDA graph replays one call: the same shapes at the same addresses. Replaying needs one launch instead of one for each
kernel. Each backend captures in its own way; this module decides when.
"""

from __future__ import annotations

import logging
import math
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from esam_rt.engines.library_errors import message_of

_log = logging.getLogger("esam_rt")


class OutputLease:
    """Held by the outputs of a replay. The graph's memory must not be overwritten while it exists."""

    def __init__(self, memory: object = None) -> None:
        self._memory = memory  # keeps the memory for as long as the outputs


class CapturedGraph(ABC):
    """A call on fixed memory that a backend replays as a CUDA graph."""

    def __init__(self) -> None:
        self._lease: weakref.ref[OutputLease] | None = None

    @property
    def is_in_use(self) -> bool:
        """True while somebody holds outputs of the last replay, which the next one would overwrite."""
        return self._lease is not None and self._lease() is not None

    def new_lease(self, memory: object = None) -> OutputLease:
        """Start a lease. The graph is in use until the lease is garbage.

        Args:
            memory: Object that the lease keeps alive.

        Returns:
            The lease. Each output on the device must hold it.
        """
        lease = OutputLease(memory)
        self._lease = weakref.ref(lease)
        return lease

    @abstractmethod
    def close(self) -> None:
        """Free the graph and its memory. Outputs that are in use keep theirs."""


@dataclass(frozen=True)
class CallKey:
    """Identity of a call. A graph serves all calls with an equal key.

    Attributes:
        shapes: Name and shape of the inputs.
        memory: Where the tensors lie, as far as the backend's graphs depend on it.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    memory: Hashable

    @property
    def size(self) -> int:
        """Number of elements of the inputs."""
        return sum(math.prod(shape) for _, shape in self.shapes)


Graph = TypeVar("Graph", bound=CapturedGraph)


class GraphCache(Generic[Graph]):
    """Holds the graphs of one repeated call, and decides when to capture and when to replay.

    A call repeats if it equals the call before it. Only a call that repeats is captured. All graphs in the cache belong
    to one call; several of them let the outputs of earlier replays stay in use. After the first failed capture the
    cache stops for good and all calls run without graphs.

    The owner must serialize the calls of all methods.

    Args:
        engine: Name of the engine, for messages.
        capacity: Largest number of graphs.
        capture_is_slow: If False, each call that repeats replaces the graphs of another call, unless their outputs are
            in use, and only calls that repeat are replayed. If True, only a larger call replaces the graphs of another
            one, and they are replayed whenever their call comes again.
    """

    def __init__(self, engine: str, capacity: int, capture_is_slow: bool = False) -> None:
        self._engine, self._capacity, self._capture_is_slow = engine, capacity, capture_is_slow
        self._previous: CallKey | None = None
        self._key: CallKey | None = None
        self._graphs: list[Graph] = []
        self._is_stopped = False

    def __len__(self) -> int:
        return len(self._graphs)

    def find(self, key: CallKey, create: Callable[[], Graph]) -> Graph | None:
        """Find a graph for a call.

        Args:
            key: The call.
            create: Makes a graph for the call. It is called if the cache has room for one more.

        Returns:
            A graph that is not in use, or None if the call must run without one.
        """
        if self._is_stopped or not (key == self._previous or (self._capture_is_slow and key == self._key)):
            return None
        if key != self._key:
            if not self._may_replace(key):
                return None
            self.discard()
        graph = next((graph for graph in self._graphs if not graph.is_in_use), None)
        if graph is None and len(self._graphs) < self._capacity:
            graph = create()
            self._graphs.append(graph)
            self._key = key
        return graph

    def note(self, key: CallKey | None) -> None:
        """Remember a call. The next one repeats if it has the same key.

        Args:
            key: The call. None forgets the call before.
        """
        self._previous = key

    def discard(self) -> None:
        """Free all graphs, for example after a failed replay. Later calls may be captured again."""
        while self._graphs:
            self._graphs.pop().close()
        self._key = None

    def stop(self, error: Exception) -> None:
        """Free all graphs and log one warning. No later call is captured.

        Args:
            error: Reason of the failed capture.
        """
        if not self._is_stopped:
            _log.warning(
                "%s: CUDA graph capture failed (%s). Running without CUDA graphs.", self._engine, message_of(error)
            )
        self.close()

    def close(self) -> None:
        """Free all graphs. No later call is captured. Closing twice has no effect."""
        self._is_stopped = True
        self.discard()

    def _may_replace(self, key: CallKey) -> bool:
        """Check if a call that repeats may take the place of the cached one."""
        if self._capture_is_slow:
            return self._key is None or key.size > self._key.size
        return not any(graph.is_in_use for graph in self._graphs)
