"""Reading, segmenting and writing one frame, the same in a run of one process and in each worker of a cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from esam_rt.entity_map import EntityMap
from esam_rt.errors import DeviceError, InputError
from esam_rt.run.run_options import Segmenter
from esam_rt.sinks.photo_record import PhotoRecord, place_of
from esam_rt.sinks.sink import Sink, write_all
from esam_rt.sources.frame import Frame
from esam_rt.sources.source import SourceItem
from esam_rt.tracing import Span, Trace


@dataclass(frozen=True)
class Segmented:
    """A frame with its entities.

    Attributes:
        frame: The frame.
        entities: Its entities.
        trace: Times of reading and writing.
    """

    frame: Frame
    entities: EntityMap
    trace: Trace = field(default_factory=Trace)

    @property
    def spans(self) -> list[Span]:
        """Times of all steps."""
        return [*self.trace.spans, *self.entities.spans]


def read_frame(item: SourceItem) -> tuple[Frame, Trace]:
    """Read a frame, and note the time.

    Args:
        item: The frame.

    Raises:
        InputError: If it cannot be used, or needs more memory than there is.
    """
    trace = Trace()
    with trace.span("reading"):
        try:
            return item.read(), trace
        except MemoryError as e:  # the next photos may be smaller
            raise InputError(f"{item.path or item.name} needs more memory than there is. Make it smaller.") from e


def segment_frame(
    item: SourceItem, read: tuple[Frame, Trace], segmenter: Segmenter, deadline_s: float | None
) -> Segmented:
    """Segment a frame, and note the time.

    Args:
        item: The frame.
        read: Result of `read_frame`.
        segmenter: An open segmenter.
        deadline_s: Seconds that it may take, or None.

    Raises:
        DeviceError: If the memory is full.
    """
    frame, trace = read
    options = {} if deadline_s is None else {"deadline_s": deadline_s}
    start = time.perf_counter()
    with _enough_memory(item):
        result = segmenter(frame.image_hwc_rgb, **options).within(frame.valid)
    total_s = time.perf_counter() - start
    return Segmented(frame, replace(result, times_s={**result.times_s, "total": total_s}), trace)


def write_frame(item: SourceItem, made: Segmented, sinks: Sequence[Sink], stem: str) -> str:
    """Write the files of a frame.

    Args:
        item: The frame.
        made: The frame with its entities.
        sinks: Open sinks, as `in_write_order` sorts them.
        stem: Path of the frame's files, without suffix.

    Returns:
        Its line of the journal, see `PhotoRecord.to_json`.

    Raises:
        OutputError: If a file cannot be written.
        DeviceError: If the memory is full.
    """
    with _enough_memory(item), made.trace.span("writing"):
        write_all(sinks, made.frame, made.entities)
        return PhotoRecord.of(item.name, stem, made.entities, item.path, place_of(made.frame)).to_json()


@contextmanager
def _enough_memory(item: SourceItem) -> Iterator[None]:
    """Raise DeviceError if the memory is full."""
    try:
        yield
    except MemoryError as e:
        raise DeviceError(
            f"{item.path or item.name}: out of memory. Leave out such large photos with --max-megapixels."
        ) from e
