"""Reading, working and writing beside each other, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from esam_rt.errors import InputError

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Worked],
    write: Callable[[Item, Worked], None],
    alone: Callable[[Item], bool],
    begin: Callable[[Item], None],
    fail: Callable[[Item, InputError], None],
) -> None:
    """Each item is read, worked on and written. While one is worked on, on the caller's thread, the one before is
    written and the one after is read, each by a thread of its own; while it is the turn of an item that is to be
    `alone`, nothing else is held.

    On the caller's thread, `begin` is told whose turn it is to be worked on, and `fail` of an item whose reading or
    work raises InputError; the others go on. Whatever else a function raises, or an interrupt, is raised after what was
    being written is finished.
    """
    with ThreadPoolExecutor(1, "esam-rt read") as reader, ThreadPoolExecutor(1, "esam-rt write") as writer:
        writing: Future[None] | None = None
        ahead: Future[Read] | None = None
        for i, item in enumerate(items):
            is_alone = alone(item)
            if is_alone and writing is not None:
                writing.result()
            later, ahead = ahead or reader.submit(read, item), None
            if not is_alone and i + 1 < len(items) and not alone(items[i + 1]):
                ahead = reader.submit(read, items[i + 1])
            begin(item)
            try:
                worked = work(item, later.result())
            except InputError as e:
                fail(item, e)
                continue
            finally:
                del later  # it holds what was read
            if writing is not None:
                writing.result()
            writing = writer.submit(write, item, worked)
            del worked
            if is_alone:
                writing.result()
        if writing is not None:
            writing.result()
