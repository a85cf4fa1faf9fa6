"""Files of lines that survive an interrupt. A line counts when its line feed is on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from esam_rt.storage.atomic import output_error


def append_line(path: Path, line: str) -> None:
    """Append a line and wait until it is on the disk.

    Args:
        path: The file. It is made if it is missing.
        line: ASCII text without a line feed.

    Raises:
        OutputError: If the line cannot be written.
    """
    try:
        with path.open("ab") as f:
            f.write(line.encode("ascii") + b"\n")
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise output_error(path, e) from e


def read_lines(path: Path) -> Iterator[str]:
    """Read the whole lines of a file. A torn last line is left out.

    Args:
        path: The file. A missing file has no lines.

    Yields:
        Each line without its line feed.
    """
    return (line for _, line in read_lines_with_starts(path))


def read_lines_with_starts(path: Path) -> Iterator[tuple[int, str]]:
    """Read the whole lines of a file, and where they begin. See `read_lines`.

    Args:
        path: The file.

    Yields:
        The offset of each line in bytes, and the line.
    """
    if path.exists():
        start = 0
        with path.open("rb") as f:
            for line in f:
                if line.endswith(b"\n"):
                    yield start, line[:-1].decode("ascii", "replace")
                start += len(line)


def lines_at(path: Path, starts: Iterable[int]) -> Iterator[str]:
    """Read the lines at some offsets.

    Args:
        path: The file.
        starts: Offsets that `read_lines_with_starts` gave.

    Yields:
        The lines without their line feeds.
    """
    with path.open("rb") as f:
        for start in starts:
            f.seek(start)
            yield f.readline()[:-1].decode("ascii", "replace")


def drop_torn_line(path: Path) -> None:
    """Cut off everything after the last line feed, so that the next line begins on its own.

    Args:
        path: The file. It may be missing.

    Raises:
        OutputError: If the file cannot be changed.
    """
    if not path.exists():
        return
    try:
        with path.open("r+b") as f:
            f.truncate(sum(len(line) for line in f if line.endswith(b"\n")))
    except OSError as e:
        raise output_error(path, e) from e
