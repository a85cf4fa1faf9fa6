"""Progress displays on stderr."""

from __future__ import annotations

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

from esam_rt.cli import output
from esam_rt.cli.output import print_error
from esam_rt.loading.events import ModelListener


class Steps:
    """Progress of an export on stderr: bytes of a download, then one line a step."""

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=output.stderr, transient=True, disable=not shown)
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
            output.stderr.print(step, highlight=False, markup=False)

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
        self._progress = Progress(*columns, console=output.stderr, transient=True, disable=not shown)
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
