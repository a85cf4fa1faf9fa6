"""Options, listener and summary of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.method.time_budget import check_deadline
from esam_rt.run.output_folder import out_address
from esam_rt.segmenter import SegmenterConfig
from esam_rt.sinks.sink_table import EVERYDAY
from esam_rt.sources.photo_limits import MAX_PIXELS
from esam_rt.sources.photo_search import PhotoFile
from esam_rt.sources.raw_frames import RawFormat
from esam_rt.sources.sample_range import SampleRange
from esam_rt.sources.source_address import given_source


class Segmenter(AbstractContextManager["Segmenter"], Protocol):
    """The part of `EntitySegmenter` that a run needs."""

    def __call__(self, image_hwc_rgb: NDArray[np.uint8], *, deadline_s: float | None = None) -> EntityMap:
        """Segment a photo.

        Args:
            image_hwc_rgb: uint8 [H, W, 3], RGB, upright.
            deadline_s: Seconds that the photo may take. It is passed only if the run has a deadline.

        Returns:
            Its entities.
        """
        ...

    def model_info(self) -> dict[str, Any]:
        """Return name and hash of the model, ``backend`` and ``device``."""
        ...


class Listener(Protocol):
    """Follows the progress of a run. Each photo begins, and is then done or failed, unless the run stops."""

    def begun(self, total: int, done: int) -> None:
        """Called once, before the first photo.

        Args:
            total: Number of photos. 0 if it is unknown.
            done: Number of photos that an earlier run finished.
        """
        ...

    def photo_begun(self, name: str) -> None:
        """Called before a photo is segmented.

        Args:
            name: Name of the photo.
        """
        ...

    def photo_done(self) -> None:
        """Called when the files of a photo are whole, on the writing thread. The next photo may have begun."""
        ...

    def photo_failed(self, message: str) -> None:
        """Called if a photo cannot be used.

        Args:
            message: The reason.
        """
        ...


class NoListener:
    """`Listener` that does nothing."""

    def begun(self, total: int, done: int) -> None:
        """Do nothing."""

    def photo_begun(self, name: str) -> None:
        """Do nothing."""

    def photo_done(self) -> None:
        """Do nothing."""

    def photo_failed(self, message: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run of photos.

    Attributes:
        sources: Photos and folders of photos, or one bucket, video, stream, camera or ROS bag. A URL is a string.
        out: Folder for the results, or the URL of one in a bucket.
        segmenter: Model, method and settings.
        write: Names of `sink_table.SINKS`.
        limit: Only the first photos, this many.
        max_pixels: Larger photos are refused.
        sample_range: Value of black and of white, for samples of more than 8 bits: ``full``, ``auto`` or
            ``(low, high)``. See `esam_rt.sources.read_photo`.
        resume: Continue an earlier run in ``out``.
        overwrite: Remove an earlier run in ``out``.
        profile: Also write ``profile.json``, the time of each step by thread.
        bands: Bands of a raster for red, green and blue. Default: those that the file calls so.
        raw: Format of raw frames on standard input, whose source is ``-``.
        topics: Image topics of a ROS bag. Default: the only one.
        copy_topics: Other topics of a ROS 2 bag that are copied into the MCAP, or ``all`` without images.
        photos: The photos to segment, if they are not all photos in ``sources``.
        deadline_s: Seconds that the segmenter may take for a photo. Reading and writing are not counted.

    Raises:
        InputError: If a source is a URL that is not read.
        SettingsError: If ``out`` is a URL that is not written, or ``deadline_s`` is no number above 0.
    """

    sources: Sequence[Path | str]
    out: Path | str
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    write: Sequence[str] = EVERYDAY
    limit: int | None = None
    max_pixels: int = MAX_PIXELS
    sample_range: SampleRange = "full"
    resume: bool = False
    overwrite: bool = False
    profile: bool = False
    bands: Sequence[int] = ()
    raw: RawFormat | None = None
    topics: Sequence[str] = ()
    copy_topics: Sequence[str] = ()
    photos: Sequence[PhotoFile] | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(map(given_source, self.sources)))
        object.__setattr__(self, "out", out_address(self.out))
        check_deadline(self.deadline_s)


@dataclass(frozen=True)
class RunSummary:
    """Result of a run.

    Attributes:
        out: Folder of the results: its path, or its URL.
        look_at: File or folder that a user should open first.
        done: Photos that this run finished.
        done_before: Photos that the resumed run had finished.
        failed: Photos that cannot be used, listed in ``errors.jsonl``.
        left_out: Files in the folders that are no photos by their names: their number by suffix.
        left: Photos that were not processed.
        entities: Entities of all finished photos.
        mean_times_s: Mean seconds a photo by stage, of all finished photos.
        exit_code: Exit code of the command line.
        error: Why the run stopped early. Empty if it did not.
        incomplete: Finished photos whose deadline came before all prompts were decoded.
        can_resume: A run with ``resume`` processes those that are left. False for videos, bags and streams.
    """

    out: Path | str
    look_at: Path | str
    done: int
    done_before: int
    failed: int
    left_out: Mapping[str, int]
    left: int
    entities: int
    mean_times_s: dict[str, float]
    exit_code: int
    error: str
    incomplete: int = 0
    can_resume: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for ``--json``."""
        return asdict(self) | {"out": str(self.out), "look_at": str(self.look_at)}


def open_segmenter(options: RunOptions, on_event: OnEvent = ignore) -> Segmenter:
    """Load the model and open the segmenter of a run. With a deadline it is warmed up.

    Args:
        options: The run.
        on_event: Called while the model is fetched, exported and built.

    Returns:
        The segmenter.
    """
    segmenter = options.segmenter.open(on_event)
    if options.deadline_s is not None:
        segmenter.warm_up()
    return segmenter
