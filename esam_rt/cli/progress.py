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
from esam_rt.cli.streams import visible
from esam_rt.loading.events import Building, Downloading, Event, Reading, SelfTesting, Writing


class Steps:
    """Progress of loading, exporting or building: a bar for a download, then one line for each step.

    Args:
        shown: If false, nothing is printed.

    Example:
        ``with Steps(shown=True) as steps: load_sam("tiny", on_event=steps.on_event)``
    """

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=output.stderr, transient=True, disable=not shown)
        self._shown = shown
        self._download: TaskID | None = None
        self._phase: TaskID | None = None

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, step: str) -> None:
        """Print a step that begins.

        Args:
            step: For example ``reading tiny.safetensors``.
        """
        if self._shown:
            output.stderr.print(visible(step), highlight=False, markup=False)

    def on_event(self, event: Event) -> None:
        """Show an event.

        Args:
            event: From a function that loads, exports or builds a model.
        """
        match event:
            case Downloading(done_bytes=done, total_bytes=total):
                if self._download is None:
                    self._download = self._progress.add_task("downloading", total=total)
                self._progress.update(self._download, completed=done)
            case Building(phase=phase) if phase:
                if self._phase is None:
                    self._phase = self._progress.add_task(escape(visible(phase)), total=None)
                self._progress.update(self._phase, description=escape(visible(phase)))
            case Building(engine=engine):
                self._begin_file(f"building {engine}")
            case Reading(file_name=name):
                self._begin_file(f"reading {name}")
            case Writing(file_name=name):
                self._begin_file(f"writing {name}")
            case SelfTesting(model=model):
                self._begin_file(f"testing the engines of {model}")

    def _begin_file(self, step: str) -> None:
        if self._phase is not None:
            self._progress.remove_task(self._phase)
            self._phase = None
        self.begin(step)


class PhotoBar:
    """Progress of a run on stderr. Failures are always printed.

    Args:
        shown: If false, only failures are printed.
    """

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
        """Start the bar.

        Args:
            total: Number of photos.
            done: Number of photos that an earlier run has finished.
        """
        self._progress.start()  # not earlier: a terminal shows one progress at a time, first that of the model
        self._task = self._progress.add_task("", total=total, completed=done, rate="", name="")

    def photo_begun(self, name: str) -> None:
        """Show the name of a photo.

        Args:
            name: Name of the photo that is segmented now.
        """
        self._progress.update(self._task, name=escape(visible(name)))

    def photo_done(self) -> None:
        """Count a photo whose files are complete."""
        self._progress.advance(self._task)
        speed = self._progress.tasks[self._task].speed
        self._progress.update(self._task, rate=f"{speed * 60:.1f} photos/min" if speed else "")

    def photo_failed(self, message: str) -> None:
        """Count a photo that failed, and print why.

        Args:
            message: One sentence.
        """
        self._progress.advance(self._task)
        print_error(message)
