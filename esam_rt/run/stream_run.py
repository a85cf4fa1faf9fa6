"""A run of a stream: frames of a folder at a camera's pace, with drops, identities and files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from esam_rt.errors import InputError, SettingsError
from esam_rt.run.bucket_run_folder import run_folder
from esam_rt.run.drop_policy import Policy
from esam_rt.run.folder_run import LocalRun
from esam_rt.run.frame_steps import Segmented
from esam_rt.run.run_options import Listener, NoListener, RunOptions, RunSummary, Segmenter, open_segmenter
from esam_rt.run.run_plan import Plan
from esam_rt.run.run_source import record_of, sinks_of, source_of
from esam_rt.run.stream import Stream, StreamResult, Tracking
from esam_rt.run.stream_statistics import SourceStatistics
from esam_rt.sources.frame import Frame
from esam_rt.sources.paced import Paced
from esam_rt.sources.source import FrameItem


@dataclass(frozen=True)
class StreamOptions:
    """How a run treats its frames as a stream.

    Attributes:
        policy: ``every`` or ``latest``, see `Stream`.
        track: Give entities identities. ``prompts`` also lets each frame choose the prompts of the next one.
        rate_hz: Frames a second that the source gives. None: as fast as they are read.
    """

    policy: Policy = "every"
    track: Tracking = False
    rate_hz: float | None = None


Follow = Callable[[StreamResult, SourceStatistics], None]


def run_stream(
    options: RunOptions,
    stream_options: StreamOptions,
    listener: Listener | None = None,
    make_segmenter: Callable[[RunOptions], Segmenter] = open_segmenter,
    follow: Follow = lambda result, statistics: None,
) -> RunSummary:
    """Segment the frames of ``options.sources`` in order, photos as the frames of a camera, and write files.

    A run with ``latest`` leaves frames out, and none of such a run can be resumed. See `run_photos` for failures and
    interrupts.

    Args:
        options: Options of the run.
        stream_options: Options of the stream.
        listener: Follows the progress. Default: nobody does.
        make_segmenter: Opens the segmenter, after everything else is checked.
        follow: Called with each result and the statistics.

    Returns:
        The summary.

    Raises:
        SettingsError: If an option is wrong, or the output folder holds other files.
        InputError: If there are no photos.
        OutputError: If the output folder cannot be made.
        MissingDependencyError: If a package of a source or a sink is not installed.
        ModelError: If the model cannot be loaded. `EngineError` and `DeviceError` likewise.
    """
    if options.resume:
        raise SettingsError("--resume: a stream cannot be resumed. Leave out --policy, --track, --coherent and --fps.")
    sinks = sinks_of(options)
    folder = run_folder(options.out)
    given = source_of(options, folder.owned)
    source = given if stream_options.rate_hz is None else Paced(given, stream_options.rate_hz)
    record = {**record_of(options), "stream": asdict(stream_options)}
    length = given.length if stream_options.policy == "every" else None
    plan = Plan(
        _Frames(source, length),
        *(sinks, folder, listener or NoListener(), record, options.limit, False, options.profile),
    )
    with folder.locked():
        earlier = folder.choose(False, options.overwrite)
        folder.make()
        with make_segmenter(options) as segmenter:
            return _StreamRun(plan, segmenter, earlier, source, stream_options, follow).go()


class _Frames:
    """A source without names, so that the run does not miss those that were dropped."""

    is_live = False

    def __init__(self, source: Iterable[Frame], length: int | None) -> None:
        self._source, self.length = source, length

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._source)


class _StreamRun(LocalRun):
    """A run whose frames come from a stream. One frame is segmented and written after the other."""

    def __init__(
        self, plan: Plan, segmenter: Segmenter, earlier: Any, source: Any, options: StreamOptions, follow: Follow
    ) -> None:
        super().__init__(plan, segmenter, earlier)
        self._source, self._stream_options, self._follow = source, options, follow

    def process(self) -> None:
        """Segment and write the results of the stream."""
        options = self._stream_options
        deadline_s = self.plan.record["deadline_s"]
        with Stream(
            self.segmenter, self._source, policy=options.policy, deadline_s=deadline_s, track=options.track
        ) as stream:
            for number, result in enumerate(stream, 1):
                self._note(result)
                self._follow(result, stream.statistics()["0"])
                if number == self.plan.limit:
                    break

    def _note(self, result: StreamResult) -> None:
        """Write the files of a frame, or why it cannot be used."""
        item = FrameItem(result.frame or Frame(np.zeros((0, 0, 3), np.uint8), result.name))
        if result.frame is not None and result.entities is not None:
            self.plan.listener.photo_begun(result.name)
            self.write(item, Segmented(result.frame, result.entities))
        elif isinstance(result.error, InputError):
            self.fail(item, result.error)
        elif result.error is not None:
            raise result.error
