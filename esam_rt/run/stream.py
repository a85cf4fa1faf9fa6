"""Stream: frames of live sources in, their entities out, with a rule for frames that come too fast."""

from __future__ import annotations

import inspect
import itertools
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np

from esam_rt.entity_map import EntityMap
from esam_rt.errors import DecodingCancelledError, InputError, SettingsError, did_you_mean
from esam_rt.method.coherent_prompts import CoherentPrompts
from esam_rt.method.time_budget import check_deadline
from esam_rt.run.drop_policy import POLICIES, Arrival, Policy, WaitingFrames
from esam_rt.run.stream_statistics import Recorder, SourceStatistics
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sources.frame import Frame
from esam_rt.sources.source import ListedSource

if TYPE_CHECKING:
    from esam_rt.tracking.entity_tracker import EntityTracker

_log = logging.getLogger("esam_rt")
FrameSource: TypeAlias = Iterable[Any]  # of frames, or of arrays uint8 [H, W, 3]
Tracking: TypeAlias = bool | Literal["prompts"]
JOIN_S = 2.0  # how long ``close`` waits for a source that does not give its next frame


@dataclass(frozen=True, eq=False)
class StreamResult:
    """One frame of a stream with its entities, or with the error in place of them.

    Attributes:
        frame: The frame. None if the source failed.
        entities: Its entities. None if there is an error.
        error: The error. None if there are entities.
        source: Name of the source.
        name: Name of the frame. Empty if the source failed.
        age_s: Seconds from the reception of the frame to this result.
        complete: False if the deadline cut the work short.
        prompts: Number of prompts that were decoded.
    """

    frame: Frame | None
    entities: EntityMap | None
    error: Exception | None
    source: str
    name: str
    age_s: float
    complete: bool
    prompts: int


class Stream(Iterator[StreamResult]):
    """Segments frames of one or several sources as they come. An iterator over results, and a context manager.

    Each source is read by a thread of its own. Frames are segmented in the thread that iterates, and only one thread
    may iterate. The source that waits for its turn longest comes next. The iteration ends when all sources have ended,
    or after ``stop`` or ``close``. After Ctrl-C, leave the ``with`` block: it closes the stream.

    With ``every``, the next frame is prepared in another thread meanwhile (``EntitySegmenter.prepare``): more frames a
    second on two cores. ``max_in_flight=1`` or a deadline turns this off.

    Args:
        segmenter: An ``EntitySegmenter``, or any function of an image that returns an ``EntityMap``. If it has
            parameters ``cancel``, ``deadline_s``, ``features`` or ``coherent``, or a method ``prepare``, the stream
            uses them.
        source: Frames, or arrays uint8 [H, W, 3] in RGB. A mapping gives several sources their names. None: ``add``
            sources before the iteration.
        policy: ``every`` segments each frame in order, and the source is blocked meanwhile. ``latest`` segments the
            newest frame of each source, and the source never waits.
        max_in_flight: With ``every``, frames of a source that wait or are in work at most, 1 to 1000.
        deadline_s: Seconds that the segmentation of one frame may take.
        track: Give entities identities, see ``EntityTracker``. Each source has identities of its own. ``prompts`` also
            lets each frame choose the prompts of the next one, see ``CoherentPrompts``.
        on_error: ``report`` returns an error as a result, and the other frames and sources go on. ``raise`` raises it.
        clock: Returns seconds.

    Raises:
        SettingsError: An option is wrong, or the segmenter lacks the parameter for it.

    Example:
        >>> with segmenter.stream(camera, policy="latest", track=True) as stream:  # doctest: +SKIP
        ...     for result in stream:
        ...         if result.entities is not None:
        ...             print(result.age_s, result.entities.track_id)
    """

    def __init__(
        self,
        segmenter: Callable[..., EntityMap],
        source: FrameSource | Mapping[str, FrameSource] | None = None,
        *,
        policy: Policy = "every",
        max_in_flight: int = 2,
        deadline_s: float | None = None,
        track: Tracking = False,
        on_error: Literal["report", "raise"] = "report",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if policy not in POLICIES:
            raise SettingsError(f"policy: unknown {policy!r}.{did_you_mean(policy, POLICIES)}")
        if track not in (True, False, "prompts"):
            raise SettingsError(f'track: found {track!r}, expected True, False or "prompts".')
        if on_error not in ("report", "raise"):
            raise SettingsError(f"on_error: unknown {on_error!r}.{did_you_mean(on_error, ('report', 'raise'))}")
        if not 1 <= max_in_flight <= 1000:
            raise SettingsError(f"max_in_flight: found {max_in_flight}, expected 1 to 1000.")
        check_deadline(deadline_s)
        self._segmenter, self._policy, self._max_in_flight = segmenter, policy, max_in_flight
        self._track, self._raises, self._clock = track, on_error == "raise", clock
        self._cancel = CancelToken()
        self._options = self._segmenter_options(deadline_s)
        looks_ahead = policy == "every" and max_in_flight > 1 and deadline_s is None
        self._prepare = getattr(segmenter, "prepare", None) if looks_ahead else None
        self._ahead: _Ahead | None = None
        self._ahead_pool = ThreadPoolExecutor(1, thread_name_prefix="esam-rt stream")
        self._waits = False  # for a frame
        self._changed = threading.Condition()  # its lock is reentrant, so a signal handler may call stop()
        self._feeds: dict[str, _Feed] = {}
        self._turns, self._numbers = itertools.count(), itertools.count()
        if isinstance(source, Mapping):
            for name, one in source.items():
                self.add(one, name)
        elif source is not None:
            self.add(source)

    def add(self, source: FrameSource, name: str | None = None) -> str:
        """Add a source. The stream may be running.

        Args:
            source: Frames, or arrays uint8 [H, W, 3].
            name: Name of the source. Default: a number.

        Returns:
            The name.

        Raises:
            SettingsError: A source of that name is running, or the stream was stopped.
        """
        name = str(next(self._numbers)) if name is None else name
        with self._changed:
            if self._cancel.is_cancelled:
                raise SettingsError(f"Source {name!r}: the stream was stopped. Open another one.")
            if name in self._feeds and not self._feeds[name].is_over:
                raise SettingsError(f"Source {name!r}: the stream has one of that name. Choose another name.")
            feed = self._feeds[name] = _Feed(name, source, self._policy, self._max_in_flight, self._track)
        feed.reader = threading.Thread(target=self._read, args=(feed,), name=f"esam-rt source {name}", daemon=True)
        feed.reader.start()
        return name

    def remove(self, name: str) -> None:
        """Remove a source. Its waiting frames are dropped, and its statistics stay.

        Args:
            name: Name of the source.

        Raises:
            SettingsError: The name is unknown.
        """
        with self._changed:
            if name not in self._feeds:
                raise SettingsError(f"Source {name!r}: unknown.{did_you_mean(name, self._feeds)}")
            self._feeds[name].drop_all("removed")
            if self._ahead is not None and self._ahead.feed is self._feeds[name]:
                self._ahead.work.cancel()
                self._ahead = None
            self._changed.notify_all()
        self._feeds[name].close()

    def statistics(self) -> dict[str, SourceStatistics]:
        """Return counts and times of each source."""
        with self._changed:
            return {name: feed.recorder.statistics() for name, feed in self._feeds.items()}

    def stop(self) -> None:
        """End the iteration after the batch in work. Safe in a signal handler, and in any thread."""
        self._cancel.cancel()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, drop waiting frames and end the threads. A second call does nothing."""
        self.stop()
        with self._changed:
            feeds, self._ahead = list(self._feeds.values()), None
            for feed in feeds:
                feed.drop_all("closed")
        self._ahead_pool.shutdown(cancel_futures=True)
        for feed in feeds:
            feed.close()
        for feed in feeds:
            if feed.reader is not None and feed.reader is not threading.current_thread():
                feed.reader.join(JOIN_S)
                if feed.reader.is_alive():
                    _log.warning("Source %r does not return. Its thread ends with its next frame.", feed.name)

    def __next__(self) -> StreamResult:
        """Segment the next frame.

        Raises:
            StopIteration: All sources have ended, or the stream was stopped.
            Exception: The error of a frame or of a source, with ``on_error="raise"``.
        """
        feed, arrival, ahead = self._next_arrival()
        begin_s = self._clock() if ahead is None else ahead.begin_s
        error, entities, is_finished = arrival.error, None, False
        try:
            if arrival.frame is not None:
                try:
                    entities = self._segmented(feed, arrival.frame, ahead)
                except Exception as e:
                    if isinstance(e, (DecodingCancelledError, CancelledError)) and self._cancel.is_cancelled:
                        raise StopIteration from e
                    error = e
            is_finished = True
        finally:
            now_s = self._clock()
            with self._changed:
                feed.waiting.finish()
                if is_finished:
                    feed.recorder.finish(now_s - begin_s, now_s - arrival.received_s, error is not None)
                else:
                    feed.recorder.dropped["closed"] += 1
                self._changed.notify_all()
        if error is not None and self._raises:
            raise error
        return StreamResult(
            arrival.frame,
            entities,
            error,
            feed.name,
            arrival.name,
            now_s - arrival.received_s,
            complete=bool(getattr(entities, "complete", entities is not None)),
            prompts=int(getattr(entities, "prompts_decoded", 0)),
        )

    def _next_arrival(self) -> tuple[_Feed, Arrival, _Ahead | None]:
        """Wait for a frame of the source that had its turn first. Also return the work that was begun on it."""
        with self._changed:
            while not self._cancel.is_cancelled:
                feed, self._waits = self._next_feed(), False
                if feed is not None:
                    feed.last_turn = next(self._turns)
                    arrival, ahead = feed.waiting.take(), None
                    if self._ahead is not None and self._ahead.arrival is arrival:  # else it waits for its turn
                        ahead, self._ahead = self._ahead, None
                    self._look_ahead()
                    return feed, arrival, ahead
                if all(feed.is_over for feed in self._feeds.values()):
                    raise StopIteration
                self._waits = True
                self._changed.wait()
        raise StopIteration

    def _next_feed(self) -> _Feed | None:
        """The source whose turn it is."""
        ready = [feed for feed in self._feeds.values() if len(feed.waiting)]
        return min(ready, key=lambda feed: feed.last_turn, default=None)

    def _look_ahead(self) -> None:
        """Begin to prepare the frame that comes next, unless the iteration takes it at once."""
        feed = self._next_feed()
        if self._prepare is None or self._ahead is not None or self._waits or feed is None:
            return
        arrival = feed.waiting.oldest
        if arrival.frame is not None and not self._cancel.is_cancelled:
            work = self._ahead_pool.submit(self._prepare, arrival.frame.image_hwc_rgb)
            self._ahead = _Ahead(feed, arrival, work, self._clock())

    def _segmented(self, feed: _Feed, frame: Frame, ahead: _Ahead | None) -> EntityMap:
        image, options = frame.image_hwc_rgb, self._options
        if feed.tracker is not None and isinstance(image, np.ndarray) and feed.tracker.watch(image):
            feed.coherent = CoherentPrompts()
        if self._track == "prompts":
            options = options | {"coherent": feed.coherent}
        entities = self._segmenter(image if ahead is None else ahead.work.result(), **options)
        if frame.valid is not None:
            entities = entities.within(frame.valid)
        return entities if feed.tracker is None else feed.tracker.update(entities)

    def _segmenter_options(self, deadline_s: float | None) -> dict[str, Any]:
        """Keyword arguments for the segmenter, as far as it has such parameters."""
        try:
            known = set(inspect.signature(self._segmenter).parameters)
        except (TypeError, ValueError):  # a function of C code tells nothing
            known = set()
        if deadline_s is not None and "deadline_s" not in known:
            raise SettingsError("deadline_s: the segmenter has no such parameter. Leave it out.")
        if self._track == "prompts" and "coherent" not in known:
            raise SettingsError('track="prompts": the segmenter has no parameter coherent. Use track=True.')
        options = {"cancel": self._cancel, "deadline_s": deadline_s, "features": bool(self._track)}
        return {name: value for name, value in options.items() if name in known and value not in (None, False)}

    def _read(self, feed: _Feed) -> None:
        """Take frames from a source until it ends, fails or is removed. Runs in a thread of its own."""
        arrivals = _arrivals(feed.source, self._clock)
        try:
            while self._waits_for_room(feed) and (arrival := next(arrivals, None)) is not None:
                with self._changed:
                    feed.recorder.received += 1
                    if self._is_over(feed):
                        feed.recorder.dropped["removed" if feed.is_removed else "closed"] += 1
                    elif feed.waiting.add(arrival):
                        feed.recorder.dropped["newer"] += 1
                    self._look_ahead()
                    self._changed.notify_all()
        finally:
            arrivals.close()
            with self._changed:
                feed.has_ended = True
                self._changed.notify_all()

    def _waits_for_room(self, feed: _Feed) -> bool:
        """Wait until a source may give its next frame. False if it is not asked any more."""
        with self._changed:
            self._changed.wait_for(lambda: feed.waiting.has_room or self._is_over(feed))
            return not self._is_over(feed)

    def _is_over(self, feed: _Feed) -> bool:
        return feed.is_removed or self._cancel.is_cancelled

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class _Ahead:
    """The frame that is prepared while another one is in work."""

    feed: _Feed
    arrival: Arrival
    work: Future[Any]
    begin_s: float


class _Feed:
    """A source of a stream, its waiting frames, identities and counts."""

    def __init__(self, name: str, source: FrameSource, policy: Policy, max_in_flight: int, track: Tracking) -> None:
        self.name, self.source = name, source
        self.tracker, self.coherent = _tracker() if track else None, CoherentPrompts()
        self.waiting = WaitingFrames(policy, max_in_flight)
        self.recorder = Recorder()
        self.reader: threading.Thread | None = None
        self.last_turn = -1
        self.has_ended = self.is_removed = False

    @property
    def is_over(self) -> bool:
        """True if no more frames will come."""
        return self.has_ended or self.is_removed

    def drop_all(self, reason: str) -> None:
        """Drop the waiting frames, and take no more."""
        self.is_removed = self.is_removed or reason == "removed"
        if count := self.waiting.clear():
            self.recorder.dropped[reason] += count

    def close(self) -> None:
        """Close the source, if it can be closed while its thread reads. A generator cannot."""
        close = getattr(self.source, "close", None)
        if callable(close) and not isinstance(self.source, Generator):
            close()


def _tracker() -> EntityTracker:
    from esam_rt.tracking.entity_tracker import EntityTracker  # imports SciPy: 0.1 s that other runs save

    return EntityTracker()


def _arrivals(source: FrameSource, clock: Callable[[], float]) -> Generator[Arrival, None, None]:
    """Yield what a source gives. A photo that cannot be read does not end a folder; any other error ends the source."""
    try:
        if isinstance(source, ListedSource):
            for item in source.items():
                try:
                    yield Arrival(item.read(), None, item.name, clock())
                except InputError as e:
                    yield Arrival(None, e, item.name, clock())
        else:
            for number, given in enumerate(source):
                frame = given if isinstance(given, Frame) else Frame(given, f"{number:06}")
                yield Arrival(frame, None, frame.name, clock())
    except Exception as e:
        yield Arrival(None, e, "", clock())
