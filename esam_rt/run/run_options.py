"""Options, listener and summary of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.segmenter import SegmenterConfig
from esam_rt.sinks.sink_table import WRITERS
from esam_rt.sources.photo_files import PhotoFile


class Segmenter(AbstractContextManager["Segmenter"], Protocol):
    """What a run needs of `EntitySegmenter`."""

    def __call__(self, image_hwc_rgb: NDArray[np.uint8]) -> EntityMap:
        """Entities of a photo uint8 [H, W, 3], RGB, upright."""
        ...

    def model_info(self) -> dict[str, Any]:
        """Name and hash of the model, backend and device."""
        ...


class Listener(Protocol):
    """Told how a run goes; every photo that begins is then done or failed, in that order, unless the run stops.
    `photo_done` comes from the thread that writes, when the next photo may have begun."""

    def begun(self, total: int, done: int) -> None:
        """There are `total` photos, of which `done` were done before."""
        ...

    def photo_begun(self, name: str) -> None:
        """A photo's turn has come to be segmented."""
        ...

    def photo_done(self) -> None:
        """Its files are whole."""
        ...

    def photo_failed(self, message: str) -> None:
        """It cannot be used, and why."""
        ...


@dataclass(frozen=True)
class RunOptions:
    """sources: photos and folders. photos: those to segment, where they are not all that `find_photos` finds in
    `sources`. out: folder for the results. write: names of `WRITERS`. limit: first so many photos.
    max_pixels: larger photos are refused. resume, overwrite: what to do with an earlier run in `out`. profile: also
    write a trace of what ran when."""

    sources: Sequence[Path]
    out: Path
    segmenter: SegmenterConfig = field(default_factory=SegmenterConfig)
    write: Sequence[str] = WRITERS
    limit: int | None = None
    max_pixels: int = 200_000_000
    resume: bool = False
    overwrite: bool = False
    profile: bool = False
    photos: Sequence[PhotoFile] | None = None


@dataclass(frozen=True)
class RunSummary:
    """done, failed: photos of this run; done_before: of the run that it resumed; left: not looked at. entities,
    mean_times_s (seconds a photo, by stage): of all photos done. error: why the run stopped early, else empty."""

    out: Path
    look_at: Path
    done: int
    done_before: int
    failed: int
    left: int
    entities: int
    mean_times_s: dict[str, float]
    exit_code: int
    error: str

    def to_json(self) -> dict[str, Any]:
        """Plain dict for `--json`."""
        return asdict(self) | {"out": str(self.out), "look_at": str(self.look_at)}


def open_segmenter(options: RunOptions, on_event: OnEvent = ignore) -> Segmenter:
    """The product's own segmenter; `on_event` is called while its model is fetched and exported."""
    return options.segmenter.open(on_event)
