"""The command `esam-rt`: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from .errors import EsamError, SettingsError

if TYPE_CHECKING:
    from .runner import RunSummary
    from .settings import Settings

INTERRUPTED = 130
TABLE_5 = {  # rows of E-SAM's Table 5, and the two stages that it counts within others
    "encoder": "encoder",
    "decoder": "decoder",
    "mmg": "MMG",
    "emr": "EMR",
    "usr": "USR",
    "superpixels": "superpixels",
    "upsampling": "upsampling",
    "total": "total",  # of the photo: superpixels run beside the decoder
}

app = typer.Typer(
    name="esam-rt",
    help="Segment every entity in a photo: E-SAM without training and without PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stderr = Console(stderr=True)
stdout = Console()


def main() -> None:
    """Entry of the console script."""
    app()


@contextmanager
def _exit_codes() -> Iterator[None]:
    """An EsamError becomes one line on stderr and its exit code; Ctrl-C becomes 130."""
    try:
        yield
    except EsamError as e:
        _print_error(str(e))
        raise typer.Exit(e.exit_code) from e
    except KeyboardInterrupt as e:
        _print_error("interrupted")
        raise typer.Exit(INTERRUPTED) from e


def _print_error(message: str) -> None:
    line = " ".join(message.split())
    stderr.print(f"[red]error:[/red] {escape(line)}", highlight=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"esam-rt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Root of the commands."""


@app.command()
def run(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE", help="Photos and folders of photos.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("esam-rt-out"),
    model: Annotated[str, typer.Option(help="A name that `esam-rt models` lists.")] = "tiny",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights of the model, instead of those that ship.")] = None,
    method: Annotated[str, typer.Option(help="e-sam, or one of the baselines amg and sam-o.")] = "e-sam",
    preset: Annotated[str, typer.Option(help="paper (grids 32/64) or fast (16/32).")] = "paper",
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, on top of the preset.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="One setting, on top of both; may be repeated."),
    ] = None,
    write: Annotated[str, typer.Option(help="What to write, separated by commas.")] = "labels,coco,overlay,report",
    backend: Annotated[str, typer.Option(help="What executes the networks.")] = "onnxruntime",
    device: Annotated[str, typer.Option(help="Where they are executed.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: one a core.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many photos.")] = None,
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Refuse larger photos.")] = 200.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an earlier run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run's results in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment photos; write label maps, COCO annotations, overlays and a report."""
    with _exit_codes():
        from .runner import RunOptions, run_photos

        options = RunOptions(
            sources=tuple(sources),
            out=out,
            model=model,
            checkpoint=checkpoint,
            method=method,
            settings=_settings(preset, config, changes or []),
            write=tuple(name.strip() for name in write.split(",") if name.strip()),
            backend=backend,
            device=device,
            threads=threads,
            limit=limit,
            max_pixels=_pixels(max_megapixels),
            resume=resume,
            overwrite=overwrite,
        )
        with _Bar(shown=stderr.is_terminal and not quiet and not as_json) as bar:
            summary = run_photos(options, bar)
        if summary.error:
            _print_error(summary.error)
        if as_json:
            typer.echo(json.dumps(summary.to_json()))
        elif not quiet:
            _print_summary(summary)
        raise typer.Exit(summary.exit_code)


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models."""
    from .models import MODELS

    if as_json:
        keys = ("name", "description", "licence", "input_px")
        rows = [{key: getattr(m, key) for key in keys} for m in MODELS.values()]
        typer.echo(json.dumps(rows))
        return
    table = Table("model", "input", "description", "licence", box=None)
    for m in MODELS.values():
        table.add_row(m.name, f"{m.input_px} px", m.description, m.licence)
    stdout.print(table)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, providers and caches, what is missing and the command that brings it."""
    from .doctor import State, diagnose

    colours = {State.OK: "green", State.ABSENT: "yellow", State.BAD: "red"}
    diagnosis = diagnose()
    if as_json:
        typer.echo(json.dumps(diagnosis.to_json()))
    else:
        table = Table("", "state", "found", box=None)
        table.columns[2].overflow = "fold"
        for f in diagnosis.findings:
            table.add_row(f.name, f"[{colours[f.state]}]{f.state}[/]", escape(f.found))
        stdout.print(table)
        for f in diagnosis.findings:  # below the table, so that a command stays on one line and can be copied
            if f.remedy:
                verb = "to add" if f.state is State.ABSENT else "to mend"
                stdout.print(f"{verb} {f.name}: {f.remedy}", soft_wrap=True, highlight=False, markup=False)
        able = ", ".join(diagnosis.backends)
        stdout.print(
            f"esam-rt can run on: {able}" if able else "esam-rt cannot run here yet; see the lines marked bad."
        )
    raise typer.Exit(diagnosis.exit_code)


def _pixels(megapixels: float) -> int:
    """--max-megapixels in pixels; `inf` = no cap."""
    return int(min(megapixels * 1e6, sys.maxsize))


def _settings(preset: str, config: Path | None, changes: list[str]) -> Settings:
    """Preset, then file, then --set."""
    from .settings import Settings

    settings = Settings.preset(preset)
    if config is not None:
        settings = Settings.from_toml(config, settings)
    overrides: dict[str, object] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change}: expected NAME=VALUE, such as --set emr.delta=0.1.")
        overrides[name.strip()] = value.strip()
    return settings.with_overrides(overrides)


class _Bar:
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

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begun(self, total: int, done: int) -> None:
        self._task = self._progress.add_task("", total=total, completed=done, rate="", name="")

    def photo_begun(self, name: str) -> None:
        self._progress.update(self._task, name=escape(name))

    def photo_done(self) -> None:
        self._progress.advance(self._task)
        speed = self._progress.tasks[self._task].speed
        self._progress.update(self._task, rate=f"{speed * 60:.1f} photos/min" if speed else "")

    def photo_failed(self, message: str) -> None:
        self._progress.advance(self._task)
        _print_error(message)


def _print_summary(summary: RunSummary) -> None:
    """Mean times in the rows of Table 5, what was done and where to look."""
    times = summary.mean_times_s
    if times:
        table = Table("stage", "mean s a photo", box=None)
        table.columns[1].justify = "right"
        for key, title in TABLE_5.items():
            if key in times:
                table.add_row(title, f"{times[key]:.3f}")
        stdout.print(table)
    stdout.print(_sentence(summary), soft_wrap=True, highlight=False, markup=False)


def _sentence(summary: RunSummary) -> str:
    photos = "photo" if summary.done == 1 else "photos"
    parts = [f"{summary.done} {photos} segmented, {summary.entities} entities"]
    if summary.done_before:
        parts.append(f"{summary.done_before} done before")
    if summary.failed:
        parts.append(f"{summary.failed} failed, see {summary.out / 'errors.jsonl'}")
    if summary.left:
        parts.append(f"{summary.left} left: run again with --resume")
    return f"{', '.join(parts)}. Look at {summary.look_at.resolve()}"
