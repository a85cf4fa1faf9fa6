"""JSON files that may be damaged or hostile: a pipe does not block, and size and depth have bounds."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

RECORD_BYTES = 16 << 20  # records that esam-rt writes itself have kilobytes; a run of many photos lists its sources


def bounded_json(path: Path, max_bytes: int = RECORD_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        max_bytes: A longer file is refused.

    Returns:
        Its value.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file, is too long or too deep, or is no JSON.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("found a pipe or device, expected a file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"found more than {max_bytes} bytes")
    try:
        return json.loads(data)
    except RecursionError as e:
        raise ValueError("found JSON that is nested too deeply") from e


def _without_waiting(path: str, flags: int) -> int:
    """Open a file. A pipe without a writer would block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
