"""Progress displays on stderr."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

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
from rich.table import Column

from esam_rt.cli import output
from esam_rt.cli.output import print_error
from esam_rt.cli.streams import visible
from esam_rt.loading.events import Building, Downloading, Event, Reading, SelfTesting, Writing

if TYPE_CHECKING:
    from esam_rt.run.stream import StreamResult
    from esam_rt.run.stream_statistics import SourceStatistics


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


class StreamLine:
    """Status of a stream on stderr, in one line. Failures are always printed.

    Args:
        shown: If false, only failures are printed.
    """

    def __init__(self, shown: bool) -> None:
        column = TextColumn("{task.description}", table_column=Column(no_wrap=True))
        self._progress = Progress(column, console=output.stderr, transient=True, disable=not shown)
        self._task = self._progress.add_task("waiting for the first frame", total=None)
        self._begin_s: float | None = None
        self._ids = 0

    def __enter__(self) -> StreamLine:
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begun(self, total: int, done: int) -> None:
        """Show the line.

        Args:
            total: Not used.
            done: Not used.
        """
        self._progress.start()

    def photo_begun(self, name: str) -> None:
        """Do nothing: `follow` has more to show."""

    def photo_done(self) -> None:
        """Do nothing."""

    def photo_failed(self, message: str) -> None:
        """Print why a frame failed.

        Args:
            message: One sentence.
        """
        print_error(message)

    def follow(self, result: StreamResult, statistics: SourceStatistics) -> None:
        """Show frames a second, age, dropped frames, entities and identities.

        Args:
            result: The newest result.
            statistics: Counts of its source.
        """
        now_s = time.monotonic()
        self._begin_s = self._begin_s or now_s
        seconds = now_s - self._begin_s
        parts = [f"{(statistics.done - 1) / seconds:.1f} frames/s"] if seconds > 0 else []
        parts += [f"age {result.age_s:.2f} s", f"{sum(statistics.dropped.values())} dropped"]
        if result.entities is not None:
            parts.append(f"{len(result.entities)} entities")
            if result.entities.track_id is not None:
                self._ids = max(self._ids, int(result.entities.track_id.max(initial=0)))
                parts.append(f"{self._ids} ids so far")
        self._progress.update(self._task, description=f"{', '.join(parts)}  {escape(visible(result.name))}")
