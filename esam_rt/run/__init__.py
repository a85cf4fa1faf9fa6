"""Runs: a source through a segmenter into sinks. Each public name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.run.folder_run import run_photos, segment_source
    from esam_rt.run.ray_cluster import RayOptions
    from esam_rt.run.ray_run import segment_with_ray
    from esam_rt.run.run_options import Listener, RunOptions, RunSummary, Segmenter
    from esam_rt.run.stream import Stream, StreamResult
    from esam_rt.run.stream_run import StreamOptions, run_stream
    from esam_rt.run.stream_statistics import SourceStatistics

__all__ = [
    "Listener",
    "RayOptions",
    "RunOptions",
    "RunSummary",
    "Segmenter",
    "SourceStatistics",
    "Stream",
    "StreamOptions",
    "StreamResult",
    "run_photos",
    "run_stream",
    "segment_source",
    "segment_with_ray",
]

_HOMES = {
    "Listener": ".run_options",
    "RayOptions": ".ray_cluster",
    "RunOptions": ".run_options",
    "RunSummary": ".run_options",
    "Segmenter": ".run_options",
    "SourceStatistics": ".stream_statistics",
    "Stream": ".stream",
    "StreamOptions": ".stream_run",
    "StreamResult": ".stream",
    "run_photos": ".folder_run",
    "run_stream": ".stream_run",
    "segment_source": ".folder_run",
    "segment_with_ray": ".ray_run",
}
__getattr__ = lazy_names(__name__, _HOMES)
