"""The table of sinks that ``--write`` picks from. A new sink of files is one row here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.sinks.coco_json import CocoJson
from esam_rt.sinks.coco_polygons import CocoPolygons
from esam_rt.sinks.html_report import HtmlReport
from esam_rt.sinks.label_maps import LabelMaps
from esam_rt.sinks.labelme import Labelme
from esam_rt.sinks.mask_files import MaskFiles
from esam_rt.sinks.mcap_file import McapFile
from esam_rt.sinks.overlay_video import OverlayVideo
from esam_rt.sinks.overlays import Overlays
from esam_rt.sinks.panoptic import Panoptic
from esam_rt.sinks.sam_json import SamJson
from esam_rt.sinks.sink import Sink
from esam_rt.sinks.yolo_segments import YoloSegments

SINKS: Mapping[str, Callable[[], Sink]] = {
    "labels": LabelMaps,
    "coco": CocoJson,
    "polygons": CocoPolygons,
    "panoptic": Panoptic,
    "labelme": Labelme,
    "yolo": YoloSegments,
    "sam": SamJson,
    "masks": MaskFiles,
    "overlay": Overlays,
    "video": OverlayVideo,
    "mcap": McapFile,
    "report": HtmlReport,
}


def make_sinks(names: Iterable[str]) -> list[Sink]:
    """Make the sinks that ``--write`` names.

    Args:
        names: Names of `SINKS`.

    Returns:
        A new sink for each name, in the order of the table.

    Raises:
        SettingsError: If a name is unknown, or there is no name.
    """
    names = list(names)
    for name in names:
        if name not in SINKS:
            raise SettingsError(f"Unknown output {name!r} in --write.{did_you_mean(name, SINKS)}")
    if not names:
        raise SettingsError(f"--write names nothing; expected some of {', '.join(SINKS)}.")
    return [make() for name, make in SINKS.items() if name in names]
