"""What all commands share: the two streams, exit codes, progress of what is fetched, exported and built."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from .artifacts import ModelListener
from .errors import EsamError, SettingsError, did_you_mean

INTERRUPTED = 130

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A name that `esam-rt models` lists.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights: .pth, .safetensors or a Hugging Face folder. Default: those that ship or are published."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]

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
    """An EsamError becomes one line on stderr and its exit code; Ctrl-C becomes 130."""
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


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """SettingsError unless `value` is one of the choices."""
    if value not in list(choices):
        raise SettingsError(f"{option} {value}: unknown.{did_you_mean(value, choices)}")


class Steps:
    """Progress of an export on stderr: bytes of a download, then one line a step."""

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=stderr, transient=True, disable=not shown)
        self._shown = shown
        self._task: TaskID | None = None
        self._phase: TaskID | None = None

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def listener(self) -> ModelListener:
        """What the cache tells."""
        return ModelListener(self._downloaded, self._written, self._building)

    def begin(self, step: str) -> None:
        """A step that has begun."""
        if self._shown:
            stderr.print(step, highlight=False, markup=False)

    def _written(self, name: str) -> None:
        self._clear_phase()
        self.begin(f"{'building' if name.endswith('.engine') else 'writing'} {name}")

    def _building(self, phase: str) -> None:
        """A phase of an engine's builder, which replaces the last."""
        if self._phase is None:
            self._phase = self._progress.add_task(phase, total=None)
        self._progress.update(self._phase, description=phase)

    def _clear_phase(self) -> None:
        if self._phase is not None:
            self._progress.remove_task(self._phase)
            self._phase = None

    def _downloaded(self, there: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("downloading", total=total)
        self._progress.update(self._task, completed=there)
