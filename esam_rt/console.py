"""What commands share: options, the two streams, exit codes, progress."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from esam_rt.errors import INTERRUPTED, EsamError, SettingsError, did_you_mean
from esam_rt.loading.events import ModelListener

if TYPE_CHECKING:
    from esam_rt.settings import Settings

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A name that `esam-rt models` lists.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights: .pth, .safetensors or a Hugging Face folder. Default: those that ship or are published."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]

# Of the commands that segment photos.
Model = Annotated[str, typer.Option(help="A name that `esam-rt models` lists.")]
Method = Annotated[str, typer.Option(help="e-sam, or a baseline: amg, sam-o, superpixels.")]
Preset = Annotated[str, typer.Option(help="paper (grids 32/64) or fast (16/32).")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings, on top of the preset.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="One setting, on top of both; may be repeated."),
]
Backend = Annotated[str, typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx.")]
Device = Annotated[
    str | None, typer.Option(help="cpu or cuda; of onnxruntime also tensorrt. Default: what the backend runs on.")
]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16 or bf16. Default: fp32, for TensorRT fp16.")]
Engines = Annotated[Path | None, typer.Option(help="Folder of engines from build-engine --out.")]
NoBuild = Annotated[bool, typer.Option("--no-build", help="Fail rather than build an engine.")]
# Each costs memory, and the libraries start as many as they are told to: 100,000 end the process.
MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))
Threads = Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads; default: one a core.")]
Memory = Annotated[
    int | None, typer.Option(min=1, metavar="MB", help="Memory of the engines at most; smaller batches of prompts.")
]
CudaGraphs = Annotated[
    bool, typer.Option("--cuda-graphs", help="On device cuda: launch full batches of prompts as CUDA graphs.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many photos.")]
MaxMegapixels = Annotated[float, typer.Option(min=0.001, help="Refuse larger photos.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an earlier run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run's results in --out.")]

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


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """SettingsError unless `value` is one of the choices."""
    if value not in list(choices):
        raise SettingsError(f"{option} {value}: unknown.{did_you_mean(value, choices)}")


def path(name: str, value: str) -> Path:
    """A path given as an argument; SettingsError for none, as a variable that is not set leaves it: it would be the
    current folder."""
    if not value:
        raise SettingsError(f"{name} is empty; expected a path. Is a variable not set?")
    return Path(value)


def pixels(megapixels: float) -> int:
    """--max-megapixels in pixels; `inf` = no cap."""
    return int(min(megapixels * 1e6, sys.maxsize))


def settings_of(preset: str, config: Path | None, changes: list[str] | None) -> Settings:
    """Preset, then file, then --set."""
    from esam_rt.settings import Settings

    settings = Settings.preset(preset)
    if config is not None:
        settings = Settings.from_toml(config, settings)
    overrides: dict[str, object] = {}
    for change in changes or []:
        name, equals, value = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change}: expected NAME=VALUE, such as --set emr.delta=0.1.")
        overrides[name.strip()] = value.strip()
    return settings.with_overrides(overrides)


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


class PhotoBar:
    """Listener of a run: progress on stderr when shown, failures always."""

    def __init__(self, shown: bool) -> None:
        columns = (
            TextColumn("photos"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[name]}"),
        )
        self._progress = Progress(*columns, console=stderr, transient=True, disable=not shown)
        self._task = TaskID(0)

    def __enter__(self) -> PhotoBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begun(self, total: int, done: int) -> None:
        """There are `total` photos, of which `done` were done before."""
        self._progress.start()  # not before: a terminal shows one progress at a time, and the model comes first
        self._task = self._progress.add_task("", total=total, completed=done, rate="", name="")

    def photo_begun(self, name: str) -> None:
        """A photo is about to be read."""
        self._progress.update(self._task, name=escape(name))

    def photo_done(self) -> None:
        """Its files are whole."""
        self._progress.advance(self._task)
        speed = self._progress.tasks[self._task].speed
        self._progress.update(self._task, rate=f"{speed * 60:.1f} photos/min" if speed else "")

    def photo_failed(self, message: str) -> None:
        """It cannot be used, and why."""
        self._progress.advance(self._task)
        print_error(message)
