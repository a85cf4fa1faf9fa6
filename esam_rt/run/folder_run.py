"""A run: frames in, files out, one journal line a finished frame. An interrupted run can be resumed."""

from __future__ import annotations

import json
import platform
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from esam_rt.errors import INTERRUPTED, EsamError, InputError, OutputError, SettingsError
from esam_rt.method.time_budget import check_deadline
from esam_rt.open_files import lack_of_open_files
from esam_rt.run.bucket_run_folder import run_folder
from esam_rt.run.frame_steps import Segmented, read_frame, segment_frame, write_frame
from esam_rt.run.output_folder import ERRORS, PROFILE
from esam_rt.run.read_ahead import overlapped
from esam_rt.run.resume import Place
from esam_rt.run.run_options import Listener, NoListener, RunOptions, RunSummary, Segmenter, open_segmenter
from esam_rt.run.run_plan import Plan
from esam_rt.run.run_source import record_of, sinks_of, source_of
from esam_rt.run.trace_writer import TraceWriter
from esam_rt.settings import Settings
from esam_rt.sinks.output_names import StemMaker, check_name, output_stems
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.sinks.sink import RunInfo, Sink, close_all, in_write_order, outputs_of
from esam_rt.sources.frame import Frame
from esam_rt.sources.source import FrameItem, ListedSource, Source, SourceItem
from esam_rt.storage.jsonl import append_line
from esam_rt.storage.provenance import package_versions, utc_now
from esam_rt.tracing import Trace

# Up to this size one frame is read and another one written while a third one is segmented. Larger frames go alone,
# which bounds the memory (benchmarks/run_memory.py).
OVERLAPPED_PIXELS = 12_000_000


def run_photos(
    options: RunOptions,
    listener: Listener | None = None,
    make_segmenter: Callable[[RunOptions], Segmenter] = open_segmenter,
) -> RunSummary:
    """Segment the photos of ``options.sources``, and write the files that ``options.write`` names.

    A photo that cannot be used is listed in ``errors.jsonl``, and the others go on. If a full disk, a device out of
    memory or Ctrl-C stops the run, all files are whole, and the summary has the exit code.

    Args:
        options: Options of the run.
        listener: Follows the progress. Default: nobody does.
        make_segmenter: Opens the segmenter, after everything else is checked.

    Returns:
        The summary.

    Raises:
        SettingsError: If an option is wrong, or the output folder holds other files.
        InputError: If there are no photos.
        OutputError: If the output folder cannot be made.
        MissingDependencyError: If a package of a source or a sink is not installed.
        ModelError: If the model cannot be loaded. `EngineError` and `DeviceError` likewise.
    """
    sinks = sinks_of(options)
    folder = run_folder(options.out)
    source = source_of(options, folder.owned)
    plan = Plan(
        source,
        sinks,
        folder,
        listener or NoListener(),
        record_of(options),
        options.limit,
        options.resume,
        options.profile,
    )
    with folder.locked():
        earlier = folder.choose(options.resume, options.overwrite)
        folder.make()
        with make_segmenter(options) as segmenter:
            return LocalRun(plan, segmenter, earlier).go()


def segment_source(
    source: Source,
    segmenter: Segmenter,
    sinks: Sequence[Sink],
    out: Path | str,
    *,
    listener: Listener | None = None,
    limit: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    profile: bool = False,
    deadline_s: float | None = None,
) -> RunSummary:
    """Segment the frames of any source, and write them to any sinks. See `run_photos` for failures and interrupts.

    Args:
        source: Frames. Only a `ListedSource` can be resumed.
        segmenter: An open segmenter. It stays open.
        sinks: Sinks, not yet open.
        out: Folder for the record, the journal and the files of the sinks, or the URL of one in a bucket.
        listener: Follows the progress.
        limit: Only the first frames, this many.
        resume: Continue an earlier run in ``out``.
        overwrite: Remove an earlier run in ``out``.
        profile: Also write ``profile.json``.
        deadline_s: Seconds that the segmenter may take for a frame. Call its ``warm_up`` before.

    Returns:
        The summary.

    Raises:
        SettingsError: If an option is wrong, or the folder holds other files.
        InputError: If two frames of a `ListedSource` have the same name, or a name is no relative path.
        OutputError: If the folder cannot be made.

    Example:
        >>> source = ArraySource({"left": left, "right": right})  # doctest: +SKIP
        >>> with EntitySegmenter("tiny") as segmenter:  # doctest: +SKIP
        ...     summary = segment_source(source, segmenter, [LabelMaps(), HtmlReport()], Path("out"))
    """
    check_deadline(deadline_s)
    record: dict[str, Any] = {}
    settings = getattr(segmenter, "settings", None)
    if isinstance(settings, Settings):
        record = {"method": getattr(segmenter, "method", None), "settings": settings.to_dict()}
    record |= {"deadline_s": deadline_s, "write": [type(sink).__name__ for sink in sinks]}
    record |= {"sources": [type(source).__name__]}
    folder = run_folder(out, outputs_of(sinks))
    plan = Plan(source, sinks, folder, listener or NoListener(), record, limit, resume, profile)
    with folder.locked():
        earlier = folder.choose(resume, overwrite)
        folder.make()
        return LocalRun(plan, segmenter, earlier).go()


class Run(ABC):
    """One run, after the checks of its options. `process` says where its frames are segmented.

    Args:
        plan: The run.
        model: Facts of the model, see `Segmenter.model_info`.
        earlier: Record of an earlier run in the folder, or None.
    """

    def __init__(self, plan: Plan, model: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> None:
        self.plan, self.folder = plan, plan.folder
        self.opened: list[Sink] = []
        self.failed = 0
        self.trace_file: TraceWriter | None = None
        self.record_more: dict[str, Any] = {}  # entries of run.json that the sinks do not get
        model = dict(model)
        backend, device = model.pop("backend"), model.pop("device")
        self.header: dict[str, Any] = {
            "program": self.folder.program,
            "model": model,
            "backend": backend,
            "device": device,
            **plan.record,
            **_reading(plan.source),
            "versions": package_versions(),
            "platform": platform.platform(),
            "started": utc_now(),
            "ended": None,
        }
        self.stem: Callable[[str], str]
        self.todo: Iterable[SourceItem]
        if isinstance(plan.source, ListedSource):
            self._begin_listed(plan.source.items(), earlier)
        else:
            self._begin_unlisted(plan.source, earlier)

    def _begin_listed(self, items: Sequence[SourceItem], earlier: Mapping[str, Any] | None) -> None:
        names = [item.name for item in items]
        stems = _checked_stems(names)
        now = {item.name: Place(stems[item.name], item.path) for item in items} if self.plan.resume else None
        self.folder.begin(earlier, self.header, now)
        self.folder.in_order_of(names)
        self.finished = {record.name for record in self.folder.records()}
        items = items[: self.plan.limit]
        self.stem, self.todo = stems.__getitem__, [item for item in items if item.name not in self.finished]
        self.total, self.done_before = len(items), len(items) - len(self.todo)

    def _begin_unlisted(self, source: Source, earlier: Mapping[str, Any] | None) -> None:
        if self.plan.resume:
            raise SettingsError(
                f"{type(source).__name__} does not know its frames in advance, so --resume cannot find the finished "
                "ones; use --overwrite or another --out."
            )
        self.folder.begin(earlier, self.header, None)
        self.finished = set()
        self.stem, self.todo = StemMaker(), map(FrameItem, islice(source, self.plan.limit))
        lengths = [n for n in (source.length, self.plan.limit) if n is not None]
        self.total, self.done_before = 0 if source.length is None else min(lengths), 0

    def go(self) -> RunSummary:
        """Process one frame after the other, then write the files that span all frames."""
        self.plan.listener.begun(self.total, self.done_before)
        stop: BaseException | None = None
        try:
            trace_path = self.folder.path / PROFILE
            with TraceWriter(trace_path) if self.plan.profile else nullcontext() as self.trace_file:
                try:
                    self._open_sinks()
                    self.process()
                except BaseException as e:
                    stop = lack_of_open_files(e) or e
                    if not isinstance(stop, EsamError | KeyboardInterrupt):
                        # A defect, maybe of a source or sink from outside: the sinks let go all the same.
                        with suppress(OutputError):
                            close_all(self.opened, {**self.header, "ended": utc_now()})
                        raise
        except OutputError as e:  # from the trace file
            stop = stop or e
        return self._finish(stop)

    @abstractmethod
    def process(self) -> None:
        """Read, segment and write all frames."""

    def _open_sinks(self) -> None:
        info = RunInfo(self.folder.path, self.stem, self.folder.records, self.folder.is_staging)
        for sink in self.plan.sinks:
            sink.open(info)
            self.opened.append(sink)

    def fail(self, item: SourceItem, error: InputError) -> None:
        """Write down why a frame cannot be used.

        Args:
            item: The frame.
            error: The reason.

        Raises:
            SettingsError: If the next frames would fail too, because too many files are open.
        """
        if (lack := lack_of_open_files(error)) is not None:
            raise lack from error
        self.failed += 1
        failure = {"name": item.name, "error": type(error).__name__, "message": str(error)}
        append_line(self.folder.path / ERRORS, json.dumps(failure))
        self.plan.listener.photo_failed(str(error))

    def note(self, line: str) -> None:
        """Write the line of the journal, after all files of the frame.

        Args:
            line: Its record, see `PhotoRecord.to_json`.
        """
        self.folder.append(line)
        self.plan.listener.photo_done()

    def _finish(self, stop: BaseException | None) -> RunSummary:
        """Close the sinks and write run.json. All totals come from the journal."""
        totals = _totals(self.folder.records())
        # Counted in the journal: Ctrl-C may come between a photo's line and any counter.
        done = len(totals.names - self.finished)
        record = {**self.header, "ended": utc_now()}
        pages = (getattr(sink, "look_at", None) for sink in self.opened)
        summary = RunSummary(
            out=self.folder.shown(self.folder.path),
            look_at=self.folder.shown(next((page for page in pages if page is not None), self.folder.path)),
            done=done,
            done_before=self.done_before,
            failed=self.failed,
            left_out=getattr(self.plan.source, "left_out", {}),
            left=max(0, self.total - self.done_before - done - self.failed),
            entities=totals.entities,
            mean_times_s={stage: float(np.mean(values)) for stage, values in totals.times_s.items()},
            exit_code=_exit_code(stop, self.failed),
            error="interrupted" if isinstance(stop, KeyboardInterrupt) else str(stop or ""),
            incomplete=totals.incomplete,
            can_resume=isinstance(self.plan.source, ListedSource),
        )
        try:
            close_all(self.opened, record)
        except OutputError as e:
            summary = _with_error(summary, e)
        try:
            self.folder.finish({**record, **self.record_more, "summary": summary.to_json()})
        except OutputError as e:
            summary = _with_error(summary, e)
        return summary


def _with_error(summary: RunSummary, error: OutputError) -> RunSummary:
    """Add an error at the end of a run. The first cause decides the exit code."""
    cause = lack_of_open_files(error) or error
    if not summary.error:
        return replace(summary, exit_code=cause.exit_code, error=str(cause))
    return replace(summary, error=f"{summary.error} Then: {cause}")


class LocalRun(Run):
    """A run in this process: one frame is read, one is segmented and one is written at a time.

    Args:
        plan: The run.
        segmenter: An open segmenter.
        earlier: Record of an earlier run in the folder, or None.
    """

    def __init__(self, plan: Plan, segmenter: Segmenter, earlier: Mapping[str, Any] | None) -> None:
        super().__init__(plan, segmenter.model_info(), earlier)
        self.segmenter, self._sinks = segmenter, in_write_order(plan.sinks)
        self._deadline_s: float | None = plan.record["deadline_s"]
        self._seen: set[str] = set()  # names of frames that were read

    def process(self) -> None:
        """Read, segment and write all frames."""
        overlapped(self.todo, self._read, self._segment, self.write, _is_large, self._begin, self.fail)

    def _begin(self, item: SourceItem) -> None:
        self.plan.listener.photo_begun(item.name)

    def _read(self, item: SourceItem) -> tuple[Frame, Trace]:
        if item.name in self._seen:
            raise InputError(f"Two frames are named {item.name!r}. Give each frame a name of its own.")
        self._seen.add(item.name)
        self.folder.check_stem(self.stem(item.name))  # checks the name
        return read_frame(item)

    def _segment(self, item: SourceItem, read: tuple[Frame, Trace]) -> Segmented:
        return segment_frame(item, read, self.segmenter, self._deadline_s)

    def write(self, item: SourceItem, made: Segmented) -> None:
        """Write the files of a frame, then its line of the journal.

        Args:
            item: The frame.
            made: The frame with its entities.
        """
        line = write_frame(item, made, self._sinks, self.stem(item.name))
        if self.trace_file is not None:
            self.trace_file.add(made.spans, item.name)
        self.note(line)


def _is_large(item: SourceItem) -> bool:
    return item.pixel_count() > OVERLAPPED_PIXELS


def _reading(source: Source) -> dict[str, Any]:
    """Return how a source of photos reads them, for run.json."""
    sample_range = getattr(source, "sample_range", None)
    return {
        "range": list(sample_range) if isinstance(sample_range, tuple) else sample_range,
        "bands": list(getattr(source, "bands", ())),
    }


def _exit_code(stop: BaseException | None, failed: int) -> int:
    if isinstance(stop, EsamError):
        return stop.exit_code
    return INTERRUPTED if stop else int(failed > 0)


@dataclass
class _Totals:
    """Sums over the journal: names, seconds of each stage by photo, entities, photos that a deadline cut short."""

    names: set[str] = field(default_factory=set)
    times_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    entities: int = 0
    incomplete: int = 0


def _totals(records: Iterator[PhotoRecord]) -> _Totals:
    totals = _Totals()
    for record in records:
        totals.names.add(record.name)
        totals.entities += len(record.entities)
        totals.incomplete += not record.complete
        for stage, seconds in record.times_s.items():
            totals.times_s[stage].append(seconds)
    return totals


def _checked_stems(names: Sequence[str]) -> dict[str, str]:
    """Choose the stems of names that are known in advance."""
    for name in names:
        check_name(name)
    stems = output_stems(names)
    if len(stems) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"Two frames are named {twice!r}. Give each frame a name of its own.")
    return stems
