"""Results on disk, one small module a format; every file appears whole or not at all (or `OutputError`)."""

from esam_rt.writers.coco import write_coco
from esam_rt.writers.labels import write_labels
from esam_rt.writers.overlay import draw_overlay, write_overlay
from esam_rt.writers.record import PhotoRecord, output_stems
from esam_rt.writers.report import write_report, write_report_photo

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
