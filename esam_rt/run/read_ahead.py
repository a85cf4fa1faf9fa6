"""Reading, working and writing side by side, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import ParamSpec, TypeVar

from esam_rt.errors import InputError

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")
Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Worked],
    write: Callable[[Item, Worked], None],
    alone: Callable[[Item], bool],
    begin: Callable[[Item], None],
    fail: Callable[[Item, InputError], None],
) -> None:
    """Read, work on and write each item, three items at a time.

    While the caller's thread works on an item, a second thread reads the next one and a third thread writes the one
    before. While an item is ``alone``, nothing else is held in memory.

    Args:
        items: The items, taken one by one on the reading thread. Taking an item may block.
        read: Reads an item, on the reading thread.
        work: Works on what was read, on the caller's thread.
        write: Writes the result, on the writing thread.
        alone: Decides if an item is processed alone, on the reading thread.
        begin: Called on the caller's thread before an item is worked on.
        fail: Called on the caller's thread if reading or working raises InputError. The next items go on.

    Raises:
        BaseException: Any other error of a function, an error of ``items``, or an interrupt. The write in progress is
            finished first. Reading is left alone: what it returns is dropped.
    """
    iterator = iter(items)
    with _Reader() as reader, ThreadPoolExecutor(1, "esam-rt write") as writer:

        def take() -> tuple[Item, Future[Read] | None] | None:
            """Take the next item, and read it next unless it is alone."""
            for item in iterator:
                return item, None if alone(item) else reader.submit(read, item)
            return None

        writing: Future[None] | None = None
        ahead = reader.submit(take)
        while (taken := ahead.result()) is not None:
            item, later = taken
            is_alone = later is None
            if later is None:
                if writing is not None:
                    writing.result()
                later = reader.submit(read, item)
            else:
                ahead = reader.submit(take)
            del taken  # it leads to what was read
            begin(item)
            try:
                worked = work(item, later.result())
            except InputError as e:
                fail(item, e)
            else:
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, item, worked)
                del worked
                if is_alone:
                    writing.result()
            finally:
                del later  # it holds what was read
            if is_alone:
                ahead = reader.submit(take)
        if writing is not None:
            writing.result()


class _Reader:
    """One thread that calls functions in order. Leaving it does not wait: a photo may take seconds, a camera for ever.

    An executor would wait, at the latest when Python ends.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_left = False
        threading.Thread(target=self._work, name="esam-rt read", daemon=True).start()

    def submit(
        self, function: Callable[Given, Returned], *args: Given.args, **kwargs: Given.kwargs
    ) -> Future[Returned]:
        """Call a function later and return its future result."""
        future: Future[Returned] = Future()

        def call() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as e:
                future.set_exception(e)
            else:
                future.set_result(result)

        self._calls.put(call)
        return future

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._is_left = True
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and not self._is_left:
            call()
            del call  # it leads to what was read
