"""The two streams, warnings and exit codes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from esam_rt.errors import INTERRUPTED, EsamError

stderr = Console(stderr=True)
stdout = Console()


class WarningLines(logging.Handler):
    """What the library logs, as lines on stderr that do not break a progress display."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        line = " ".join(record.getMessage().split())
        stderr.print(f"[yellow]{record.levelname.lower()}:[/yellow] {escape(line)}", highlight=False, soft_wrap=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """An EsamError becomes one line on stderr and its exit code; Ctrl-C becomes INTERRUPTED."""
    try:
        yield
    except EsamError as e:
        print_error(str(e))
        raise typer.Exit(e.exit_code) from e
    except KeyboardInterrupt as e:
        print_error("interrupted")
        raise typer.Exit(INTERRUPTED) from e


def print_error(message: str) -> None:
    """One line on stderr."""
    line = " ".join(message.split())
    stderr.print(f"[red]error:[/red] {escape(line)}", highlight=False, soft_wrap=True)
