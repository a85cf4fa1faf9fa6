"""Plan: what a run needs besides its segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esam_rt.run.resume import RunFolder
from esam_rt.run.run_options import Listener
from esam_rt.sinks.sink import Sink
from esam_rt.sources.source import Source


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs besides its segmenter.

    Attributes:
        source: The frames.
        sinks: The sinks, not yet open.
        folder: The output folder.
        listener: Follows the progress.
        record: Further entries of run.json.
        limit: Only the first frames, this many.
        resume: Continue an earlier run.
        profile: Also write ``profile.json``.
    """

    source: Source
    sinks: Sequence[Sink]
    folder: RunFolder
    listener: Listener
    record: Mapping[str, Any]
    limit: int | None
    resume: bool
    profile: bool
