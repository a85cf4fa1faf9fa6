"""The command line that all benchmarks share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Make the parser of a benchmark, with the option ``--json``.

    Args:
        description: The script's docstring.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser


def note(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)
