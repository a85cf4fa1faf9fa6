"""From the name of a model to its engines: caches, downloads, memory limits, checks.

Public: ``load_sam``, ``ExecutionConfig``, ``build_engines``, ``BuildOptions`` and the events. The modules are internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esam_rt.engines.tensorrt.builder import BuildOptions
    from esam_rt.loading.engine_building import BuiltEngines, build_engines
    from esam_rt.loading.events import Building, Downloading, Event, Reading, SelfTesting, Writing
    from esam_rt.loading.execution import ExecutionConfig
    from esam_rt.loading.loader import load_sam

_HOMES = {
    "BuildOptions": "engines.tensorrt.builder",
    "BuiltEngines": "loading.engine_building",
    "ExecutionConfig": "loading.execution",
    "build_engines": "loading.engine_building",
    "load_sam": "loading.loader",
    **dict.fromkeys(("Building", "Downloading", "Event", "Reading", "SelfTesting", "Writing"), "loading.events"),
}
__all__ = [
    "BuildOptions",
    "Building",
    "BuiltEngines",
    "Downloading",
    "Event",
    "ExecutionConfig",
    "Reading",
    "SelfTesting",
    "Writing",
    "build_engines",
    "load_sam",
]


def __getattr__(name: str) -> Any:
    # The loader imports NumPy and onnx. `esam-rt --help` needs ExecutionConfig alone.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"esam_rt.{_HOMES[name]}"), name)
