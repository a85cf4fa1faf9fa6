"""Files of lines that survive an interrupt: a line counts once its line feed is on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from esam_rt.storage.atomic import output_error


def append_line(path: Path, line: str) -> None:
    """Append one line of ASCII and wait until it is on the disk; OutputError when it cannot be written."""
    try:
        with path.open("ab") as f:
            f.write(line.encode("ascii") + b"\n")
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise output_error(path, e) from e


def read_lines(path: Path) -> Iterator[str]:
    """The whole lines without line feeds; a torn last one is left out, a missing file has none."""
    if path.exists():
        with path.open("rb") as f:
            yield from (line[:-1].decode("ascii", "replace") for line in f if line.endswith(b"\n"))


def drop_torn_line(path: Path) -> None:
    """Cut off what follows the last line feed, so that the next line begins on its own."""
    if not path.exists():
        return
    try:
        with path.open("r+b") as f:
            f.truncate(sum(len(line) for line in f if line.endswith(b"\n")))
    except OSError as e:
        raise output_error(path, e) from e
