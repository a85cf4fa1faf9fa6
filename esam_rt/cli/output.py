"""The two streams, warnings and exit codes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from esam_rt.cli.streams import visible
from esam_rt.errors import INTERRUPTED, EsamError
from esam_rt.open_files import lack_of_open_files


class _Console(Console):
    """A console that shows control characters in texts and cells of tables as escapes: names of files may hold any."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, kept="\n\t"), **options)

    @property
    def file(self) -> IO[str]:
        """The stream itself. A progress display puts a proxy of rich before the one of ``own_stderr``."""
        found = cast("property", Console.file).fget(self)  # type: ignore[misc]
        return cast("IO[str]", getattr(found, "rich_proxied_file", found))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file


stderr = _Console(stderr=True)
stdout = _Console()


class WarningLines(logging.Handler):
    """Prints log records as lines on stderr that do not break a progress display."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record.

        Args:
            record: A record of the logger ``esam_rt``.
        """
        line = " ".join(record.getMessage().split())
        stderr.print(f"[yellow]{record.levelname.lower()}:[/yellow] {escape(line)}", highlight=False, soft_wrap=True)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn an error into one line on stderr and an exit code. Also a decorator.

    Raises:
        typer.Exit: With the exit code of an ``EsamError``, or ``INTERRUPTED`` after Ctrl-C.
    """
    try:
        yield
    except EsamError as e:
        error = lack_of_open_files(e) or e
        print_error(str(error))
        raise typer.Exit(error.exit_code) from e
    except KeyboardInterrupt as e:
        print_error("interrupted")
        raise typer.Exit(INTERRUPTED) from e


def print_error(message: str) -> None:
    """Print one line on stderr.

    Args:
        message: Line breaks become spaces.
    """
    line = " ".join(message.split())
    stderr.print(f"[red]error:[/red] {escape(line)}", highlight=False, soft_wrap=True)


def print_line(line: str) -> None:
    """Print one line on stdout, without color and not wrapped: paths and commands in it can be copied.

    Args:
        line: The text. Square brackets are no markup.
    """
    stdout.print(visible(line), soft_wrap=True, highlight=False, markup=False)


def shows_progress(quiet: bool, as_json: bool) -> bool:
    """Tell if a command shows its progress: only on a terminal.

    Args:
        quiet: The option ``--quiet``.
        as_json: The option ``--json``.

    Returns:
        True if stderr is a terminal and neither option was given.
    """
    return stderr.is_terminal and not quiet and not as_json
