"""The policy of CUDA graphs: which calls are captured and replayed, apart from any backend."""

from __future__ import annotations

import gc
import weakref

import pytest

from esam_rt.engines.cuda.cuda_graph_policy import CallKey, CapturedGraph, GraphCache, OutputLease


class Graph(CapturedGraph):
    closed = False

    def close(self) -> None:
        self.closed = True


def key(size: int, memory: object = None) -> CallKey:
    return CallKey((("x", (size, 1)), ("scale", ())), memory)


def run(cache: GraphCache[Graph], called: CallKey, notes_replays: bool = True) -> Graph | None:
    graph = cache.find(called, Graph)
    if graph is None or notes_replays:
        cache.note(called)
    return graph


def test_a_call_that_repeats_is_captured_and_replayed() -> None:
    cache = GraphCache[Graph]("net", 3)
    assert run(cache, key(4)) is None
    graph = run(cache, key(4))
    assert graph is not None
    assert run(cache, key(4)) is graph
    assert run(cache, key(4, "other addresses")) is None
    assert run(cache, key(4)) is None, "only a call that repeats is replayed"
    assert run(cache, key(4)) is graph
    assert len(cache) == 1


def test_a_repeated_call_replaces_the_one_before() -> None:
    cache = GraphCache[Graph]("net", 3)
    first = [run(cache, key(4)) for _ in range(2)][1]
    second = [run(cache, key(2)) for _ in range(2)][1]
    assert first is not None
    assert second is not None
    assert (first.closed, second.closed) == (True, False)


def test_outputs_in_use_keep_their_graphs() -> None:
    cache, leases = GraphCache[Graph]("net", 2), list[OutputLease]()
    run(cache, key(4))
    graphs = []
    for _ in range(2):
        graphs.append(run(cache, key(4)))
        leases.append(graphs[-1].new_lease())  # type: ignore[union-attr]
    assert graphs[0] is not graphs[1]
    assert run(cache, key(4)) is None, "the cache is full"
    assert [run(cache, key(2)) for _ in range(2)] == [None, None], "no graph may be freed"
    leases.pop()
    gc.collect()
    assert [run(cache, key(4)) for _ in range(2)] == [None, graphs[1]]


def test_slow_captures_stay_with_the_largest_call() -> None:
    cache = GraphCache[Graph]("net", 1, capture_is_slow=True)
    small = [run(cache, key(2), notes_replays=False) for _ in range(2)][1]
    assert small is not None
    assert run(cache, key(5), notes_replays=False) is None
    assert run(cache, key(2), notes_replays=False) is small, "replayed whenever the call comes"
    large = run(cache, key(5), notes_replays=False)
    assert large is not None
    assert small.closed
    assert [run(cache, key(3), notes_replays=False) for _ in range(3)] == [None] * 3
    assert run(cache, key(5), notes_replays=False) is large


@pytest.mark.parametrize("capture_is_slow", [False, True])
def test_after_a_failure_nothing_is_captured(capture_is_slow: bool, caplog: pytest.LogCaptureFixture) -> None:
    cache = GraphCache[Graph]("net", 1, capture_is_slow)
    graph = [run(cache, key(4)) for _ in range(2)][1]
    assert graph is not None
    for _ in range(2):
        cache.stop(RuntimeError("no capture"))
    assert graph.closed
    assert [run(cache, key(4)) for _ in range(3)] == [None] * 3
    (record,) = caplog.records
    assert record.getMessage() == "net: CUDA graph capture failed (no capture). Running without CUDA graphs."


def test_a_graph_that_cannot_be_made_leaves_the_cache_usable() -> None:
    def fails() -> Graph:
        raise KeyboardInterrupt

    cache = GraphCache[Graph]("net", 1, capture_is_slow=True)
    cache.note(key(4))
    with pytest.raises(KeyboardInterrupt):
        cache.find(key(4), fails)
    assert cache.find(key(2), Graph) is None
    assert cache.find(key(4), Graph) is not None


def test_discarded_graphs_are_captured_again() -> None:
    cache = GraphCache[Graph]("net", 1)
    graph = [run(cache, key(4)) for _ in range(2)][1]
    cache.discard()
    assert graph is not None
    assert graph.closed
    again = run(cache, key(4))
    assert again is not None
    assert again is not graph
    cache.note(None)
    assert cache.find(key(4), Graph) is None


def test_a_lease_keeps_the_memory() -> None:
    class Memory:
        pass

    graph, memory = Graph(), Memory()
    lease, is_alive = graph.new_lease(memory), weakref.ref(memory)
    del memory
    assert graph.is_in_use
    assert is_alive()
    del lease
    assert not graph.is_in_use
    assert not is_alive()
