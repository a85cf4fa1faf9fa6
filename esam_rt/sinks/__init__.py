"""Sinks: where entities go. Each public name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.sinks.coco_json import CocoJson
    from esam_rt.sinks.file_sink import FileSink
    from esam_rt.sinks.html_report import HtmlReport
    from esam_rt.sinks.label_maps import LabelMaps
    from esam_rt.sinks.overlays import Overlays, draw_overlay
    from esam_rt.sinks.sink import RunInfo, Sink

__all__ = ["CocoJson", "FileSink", "HtmlReport", "LabelMaps", "Overlays", "RunInfo", "Sink", "draw_overlay"]

_HOMES = {
    "CocoJson": ".coco_json",
    "FileSink": ".file_sink",
    "HtmlReport": ".html_report",
    "LabelMaps": ".label_maps",
    "Overlays": ".overlays",
    "RunInfo": ".sink",
    "Sink": ".sink",
    "draw_overlay": ".overlays",
}
__getattr__ = lazy_names(__name__, _HOMES)
