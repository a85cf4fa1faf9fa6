"""From the name of a model to its engines: caches, downloads, memory limits, checks.

Public: ``load_sam``, ``ExecutionConfig``, ``build_engines``, ``BuildOptions`` and the events. The modules are internal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.engines.tensorrt.builder import BuildOptions
    from esam_rt.loading.engine_building import BuiltEngines, build_engines
    from esam_rt.loading.events import Building, Downloading, Event, Reading, SelfTesting, Writing
    from esam_rt.loading.execution import ExecutionConfig
    from esam_rt.loading.loader import load_sam

_EVENTS = ("Building", "Downloading", "Event", "Reading", "SelfTesting", "Writing")
_HOMES = {
    "BuildOptions": "esam_rt.engines.tensorrt.builder",
    "BuiltEngines": "esam_rt.loading.engine_building",
    "ExecutionConfig": "esam_rt.loading.execution",
    "build_engines": "esam_rt.loading.engine_building",
    "load_sam": "esam_rt.loading.loader",
    **dict.fromkeys(_EVENTS, "esam_rt.loading.events"),
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
# The loader imports NumPy and onnx. `esam-rt --help` needs ExecutionConfig alone.
__getattr__ = lazy_names(__name__, _HOMES)
