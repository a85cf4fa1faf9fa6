"""Results on disk, one small module a format; every file appears whole or not at all (or `OutputError`)."""

from .coco import write_coco
from .labels import write_labels
from .overlay import draw_overlay, write_overlay
from .record import PhotoRecord, output_stems
from .report import write_report, write_report_photo

WRITERS = ("labels", "coco", "overlay", "report")

__all__ = [
    "WRITERS",
    "PhotoRecord",
    "draw_overlay",
    "output_stems",
    "write_coco",
    "write_labels",
    "write_overlay",
    "write_report",
    "write_report_photo",
]
