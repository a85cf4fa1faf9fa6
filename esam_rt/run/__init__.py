"""Runs: a source through a segmenter into sinks. Each public name is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esam_rt.run.folder_run import run_photos, segment_source
    from esam_rt.run.run_options import Listener, RunOptions, RunSummary, Segmenter

__all__ = ["Listener", "RunOptions", "RunSummary", "Segmenter", "run_photos", "segment_source"]

_MODULES = {
    "Listener": "run_options",
    "RunOptions": "run_options",
    "RunSummary": "run_options",
    "Segmenter": "run_options",
    "run_photos": "folder_run",
    "segment_source": "folder_run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
