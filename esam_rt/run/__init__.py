"""Runs: a source through a segmenter into sinks. Each public name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.run.folder_run import run_photos, segment_source
    from esam_rt.run.run_options import Listener, RunOptions, RunSummary, Segmenter

__all__ = ["Listener", "RunOptions", "RunSummary", "Segmenter", "run_photos", "segment_source"]

_HOMES = {
    "Listener": ".run_options",
    "RunOptions": ".run_options",
    "RunSummary": ".run_options",
    "Segmenter": ".run_options",
    "run_photos": ".folder_run",
    "segment_source": ".folder_run",
}
__getattr__ = lazy_names(__name__, _HOMES)
