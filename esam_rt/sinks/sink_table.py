"""The table of sinks, by name and by path. A new sink of files is one row here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from esam_rt.errors import SettingsError, did_you_mean
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
from esam_rt.sinks.overlays import Overlays
from esam_rt.sinks.panoptic import Panoptic
from esam_rt.sinks.rerun_file import VIEWER_SCHEMES, RerunFile
from esam_rt.sinks.sam_json import SamJson
from esam_rt.sinks.sink_group import SinkGroup
from esam_rt.sinks.yolo_segments import YoloSegments

SINKS: Mapping[str, type[FileSink]] = {
    "labels": LabelMaps,
    "coco": CocoJson,
    "polygons": CocoPolygons,
    "panoptic": Panoptic,
    "labelme": Labelme,
    "yolo": YoloSegments,
    "sam": SamJson,
    "masks": MaskFiles,
    "conceptgraphs": ConceptGraphs,
    "overlay": Overlays,
    "video": OverlayVideo,
    "mcap": McapFile,
    "rerun": RerunFile,
    "geotiff": GeoTiff,
    "geopackage": GeoPackage,
    "report": HtmlReport,
}
SUFFIXES = {".mcap": "mcap", ".mp4": "video", ".rrd": "rerun", ".tif": "geotiff", ".gpkg": "geopackage"}
EVERYDAY = ("labels", "coco", "overlay", "report")


def make_sinks(names: Iterable[str]) -> list[FileSink]:
    """Make the sinks that ``--write`` names.

    Args:
        names: Names of `SINKS`, or the address of a viewer of Rerun.

    Returns:
        A new sink for each name, in the order of the table, then viewers.

    Raises:
        SettingsError: If a name is unknown, or there is no name.
        MissingDependencyError: If a package of a sink is not installed.
    """
    given = list(names)
    names = [name for name in given if not name.startswith(VIEWER_SCHEMES)]
    viewers = [RerunFile(viewer=name) for name in given if name.startswith(VIEWER_SCHEMES)]
    for name in names:
        if name not in SINKS:
            raise SettingsError(f"Unknown output {name!r} in --write.{did_you_mean(name, SINKS)}")
    if not given:
        raise SettingsError(f"--write names nothing; expected some of {', '.join(SINKS)}.")
    return [*(make() for name, make in SINKS.items() if name in names), *viewers]


def open_sink(*paths: str | Path) -> SinkGroup:
    """Make one sink that writes to all of some paths, without a run or in one.

    Args:
        *paths: Files and folders as ``--write`` makes them, such as ``out/labels`` and ``out/entities.json``, or files
            of any name that end in ``.mcap``, ``.mp4``, ``.rrd``, ``.tif`` or ``.gpkg``, or the address of a viewer of
            Rerun.

    Raises:
        SettingsError: If no sink makes such a file or folder.
        MissingDependencyError: If a package of a sink is not installed.

    Example:
        >>> with open_sink("out/labels", "drive.mp4") as sink:  # doctest: +SKIP
        ...     for frame in open_source("drive.mp4"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb))
    """
    return SinkGroup([_sink_at(path) for path in map(str, paths)])


def _sink_at(address: str) -> FileSink:
    if address.startswith(VIEWER_SCHEMES):
        return RerunFile(viewer=address)
    path = Path(address)
    for sink in SINKS.values():
        if path.name in sink.outputs:
            return sink.at(path)
    sink_of_suffix = SINKS.get(SUFFIXES.get(path.suffix.lower(), ""))
    if sink_of_suffix is None or not sink_of_suffix.file_name:
        outputs = [output for sink in SINKS.values() for output in sink.outputs]
        raise SettingsError(f"{path}: no sink makes {path.name!r}.{did_you_mean(path.name, outputs)}")
    return sink_of_suffix.at(path)
