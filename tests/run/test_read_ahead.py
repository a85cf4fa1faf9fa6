"""Reading, working and writing beside each other."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator

import pytest

from esam_rt.errors import EngineError, InputError, OutputError
from esam_rt.run.read_ahead import overlapped
from tests.support.processes import GUARD_S


class Steps:
    """Functions of a pipeline over numbers that remember what was called; `hooks` run inside."""

    def __init__(self, alone: tuple[int, ...] = (), **hooks: Callable[[int], None]) -> None:
        self.done: list[str] = []
        self.alone, self.hooks = alone, hooks

    def call(self, step: str, item: int) -> None:
        self.hooks.get(step, lambda item: None)(item)
        self.done.append(f"{step} {item}")

    def read(self, item: int) -> int:
        self.call("read", item)
        return item * 10

    def work(self, item: int, read: int) -> int:
        assert read == item * 10
        self.call("work", item)
        return item * 100

    def write(self, item: int, worked: int) -> None:
        assert worked == item * 100
        self.call("write", item)

    def run(self, items: int | Iterable[int] = 4) -> list[str]:
        overlapped(
            range(items) if isinstance(items, int) else items,
            self.read,
            self.work,
            self.write,
            lambda item: item in self.alone,
            lambda item: self.call("begin", item),
            lambda item, error: self.call("fail", item),
        )
        return self.done

    def of(self, step: str) -> list[int]:
        return [int(call.split()[1]) for call in self.done if call.startswith(step)]


def test_three_items_at_once_and_each_step_in_order() -> None:
    """The work on item 1 ends when item 2 is being read and item 0 written."""
    reading, writing = threading.Event(), threading.Event()

    def read(item: int) -> None:
        if item == 2:
            reading.set()

    def work(item: int) -> None:
        if item == 1:
            assert reading.wait(GUARD_S)
            assert writing.wait(GUARD_S)

    def write(item: int) -> None:
        if item == 0:
            writing.set()

    steps = Steps(read=read, work=work, write=write)
    steps.run()
    assert all(steps.of(step) == [0, 1, 2, 3] for step in ("begin", "read", "work", "write"))


def test_at_most_one_is_read_ahead() -> None:
    steps = Steps(work=lambda item: None)
    ahead: list[int] = []
    steps.hooks["write"] = lambda item: ahead.append(max(steps.of("read")) - item)
    steps.run(20)
    assert max(ahead) <= 3


def test_alone() -> None:
    steps = Steps(alone=(1, 2))
    done = steps.run()
    assert done.index("write 0") < done.index("read 1")
    alone = [call for call in done if not call.startswith("begin") and call.endswith((" 1", " 2"))]
    assert alone == ["read 1", "work 1", "write 1", "read 2", "work 2", "write 2"]
    assert done.index("write 2") < done.index("read 3")


@pytest.mark.parametrize("step", ["read", "work"])
def test_an_item_that_cannot_be_used(step: str) -> None:
    def refuse(item: int) -> None:
        if item in (0, 2):
            raise InputError("no photo")

    steps = Steps(**{step: refuse})
    steps.run()
    assert steps.of("fail") == [0, 2]
    assert steps.of("write") == [1, 3]
    assert steps.of("begin") == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [EngineError("broken"), KeyboardInterrupt(), ZeroDivisionError()])
def test_work_that_fails_lets_the_write_before_finish(error: BaseException) -> None:
    failed = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            failed.set()
            raise error

    steps = Steps(work=work, write=lambda item: assert_set(failed))
    with pytest.raises(type(error)):
        steps.run()
    assert steps.of("write") == [0]


def assert_set(event: threading.Event) -> None:
    assert event.wait(GUARD_S)


def test_a_write_that_fails_ends_it_and_the_first_error_is_told() -> None:
    def fail(item: int) -> None:
        raise OutputError(f"disk is full at {item}")

    steps = Steps(write=fail)
    with pytest.raises(OutputError, match="at 0"):
        steps.run()
    assert steps.of("work") == [0, 1]
    both = Steps(write=fail, work=lambda item: fail_at_1(item))
    with pytest.raises(EngineError, match="broken"):
        both.run()
    last = Steps(write=lambda item: fail(item) if item == 3 else None)
    with pytest.raises(OutputError, match="at 3"):
        last.run()


def fail_at_1(item: int) -> None:
    if item == 1:
        raise EngineError("broken")


def test_an_interrupt_does_not_wait_for_reading() -> None:
    """A photo may take seconds to decode, and a camera may send nothing for ever."""
    reading, released = threading.Event(), threading.Event()

    def read(item: int) -> None:
        if item == 1:
            reading.set()
            released.wait(GUARD_S)
            released.set()

    def work(item: int) -> None:
        assert reading.wait(GUARD_S)
        raise KeyboardInterrupt

    steps = Steps(read=read, work=work)
    with pytest.raises(KeyboardInterrupt):
        steps.run()
    assert not released.is_set()
    released.set()


def test_nothing_is_held_longer_than_needed() -> None:
    """While an item is alone, what others were made of is gone."""

    class Photo:
        pass

    alive: list[weakref.ref[Photo]] = []
    counts: list[int] = []

    def read(item: int) -> Photo:
        gc.collect()
        counts.append(sum(ref() is not None for ref in alive))
        photo = Photo()
        alive.append(weakref.ref(photo))
        return photo

    overlapped(
        range(4), read, lambda item, photo: photo, lambda item, photo: None, lambda item: True, print, lambda *a: None
    )
    assert counts == [0, 0, 0, 0]


def test_nothing_to_do() -> None:
    assert Steps().run(0) == []


def test_items_are_taken_one_by_one_on_the_reading_thread() -> None:
    taken: list[int] = []
    threads: set[str] = set()

    def items() -> Iterator[int]:
        for item in range(6):
            threads.add(threading.current_thread().name)
            taken.append(item)
            yield item

    steps = Steps(work=lambda item: ahead.append(len(taken) - item))
    ahead: list[int] = []
    steps.run(items())
    assert steps.of("write") == list(range(6))
    assert max(ahead) <= 2, "this item and the next one"
    assert len(threads) == 1 and next(iter(threads)).startswith("esam-rt read")


def test_no_item_is_taken_while_one_is_alone() -> None:
    taken: list[int] = []
    steps = Steps(alone=(1,), write=lambda item: seen.append((item, list(taken))) if item == 1 else None)
    seen: list[tuple[int, list[int]]] = []
    steps.run(item for item in range(4) if not taken.append(item))  # type: ignore[func-returns-value]
    assert seen == [(1, [0, 1])]


def test_items_that_fail_end_it_after_those_before() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise InputError("the cable is cut")

    steps = Steps()
    with pytest.raises(InputError, match="cable"):
        steps.run(items())
    assert (steps.of("write"), steps.of("fail")) == ([0], [])
