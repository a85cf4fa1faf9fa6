"""Benchmarks: one script for each question. Each prints a table and can write JSON. None is a test.

Install the packages that they need with ``pip install -e '.[cpu,bench]'`` (``gpu`` instead of ``cpu`` for CUDA). Run a
benchmark from the root of the repository: ``python -m benchmarks.end_to_end``.
"""

from __future__ import annotations

import sys
from types import TracebackType

INSTALL = "pip install -e '.[cpu,bench]'"


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a missing package or an error of esam_rt without a traceback."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    # By name: benchmarks.lib.carry runs before any package is installed, so nothing of esam_rt is imported here.
    if any(base.__module__ == "esam_rt.errors" for base in kind.__mro__):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, ModuleNotFoundError) and package not in ("benchmarks", "esam_rt", "tests", ""):
        print(f"error: The package {package} is missing. Install it: {INSTALL}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _in_one_line
