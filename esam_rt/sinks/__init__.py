"""Sinks: where entities go. Each public name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.sinks.coco_json import CocoJson
    from esam_rt.sinks.coco_polygons import CocoPolygons
    from esam_rt.sinks.concept_graphs import ConceptGraphs
    from esam_rt.sinks.file_sink import FileSink
    from esam_rt.sinks.geopackage import GeoPackage
    from esam_rt.sinks.geotiff import GeoTiff
    from esam_rt.sinks.html_report import HtmlReport
    from esam_rt.sinks.label_maps import LabelMaps
    from esam_rt.sinks.labelme import Labelme
    from esam_rt.sinks.mask_files import MaskFiles
    from esam_rt.sinks.mcap_file import McapFile
    from esam_rt.sinks.overlay_video import OverlayVideo
    from esam_rt.sinks.overlays import Overlays, draw_overlay
    from esam_rt.sinks.panoptic import Panoptic
    from esam_rt.sinks.rerun_file import RerunFile
    from esam_rt.sinks.sam_json import SamJson
    from esam_rt.sinks.sink import RunInfo, Sink
    from esam_rt.sinks.sink_group import SinkGroup
    from esam_rt.sinks.sink_table import open_sink
    from esam_rt.sinks.yolo_segments import YoloSegments

__all__ = [
    "CocoJson",
    "CocoPolygons",
    "ConceptGraphs",
    "FileSink",
    "GeoPackage",
    "GeoTiff",
    "HtmlReport",
    "LabelMaps",
    "Labelme",
    "MaskFiles",
    "McapFile",
    "OverlayVideo",
    "Overlays",
    "Panoptic",
    "RerunFile",
    "RunInfo",
    "SamJson",
    "Sink",
    "SinkGroup",
    "YoloSegments",
    "draw_overlay",
    "open_sink",
]

_HOMES = {
    "CocoJson": ".coco_json",
    "CocoPolygons": ".coco_polygons",
    "ConceptGraphs": ".concept_graphs",
    "FileSink": ".file_sink",
    "GeoPackage": ".geopackage",
    "GeoTiff": ".geotiff",
    "HtmlReport": ".html_report",
    "LabelMaps": ".label_maps",
    "Labelme": ".labelme",
    "MaskFiles": ".mask_files",
    "McapFile": ".mcap_file",
    "OverlayVideo": ".overlay_video",
    "Overlays": ".overlays",
    "Panoptic": ".panoptic",
    "RerunFile": ".rerun_file",
    "RunInfo": ".sink",
    "SamJson": ".sam_json",
    "Sink": ".sink",
    "SinkGroup": ".sink_group",
    "YoloSegments": ".yolo_segments",
    "draw_overlay": ".overlays",
    "open_sink": ".sink_table",
}
__getattr__ = lazy_names(__name__, _HOMES)
