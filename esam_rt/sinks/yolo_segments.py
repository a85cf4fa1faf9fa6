"""YoloSegments: labels of YOLO's segmentation format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from esam_rt.entity_map import EntityMap
from esam_rt.polygons import joined_ring
from esam_rt.sinks.coco_polygons import TOLERANCE_PX
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_text

FOLDER = "yolo"


class YoloSegments(FileSink):
    """Write ``yolo/<stem>.txt`` for each frame: one line an entity, class 0, then x and y of its ring in [0, 1].

    The format has one ring an entity. Pieces and holes are joined to it by seams of no width.

    Args:
        folder: Folder for the files. Default: the folder of the run.
        tolerance_px: Largest distance between a ring and the mask.

    Example:
        >>> with YoloSegments("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = (FOLDER,)

    def __init__(self, folder: Path | str | None = None, tolerance_px: float = TOLERANCE_PX) -> None:
        super().__init__(folder)
        self._tolerance_px = tolerance_px

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the labels of a frame. The file is empty if there is no entity.

        Args:
            frame: The photo.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        height, width = entities.labels.shape
        lines = []
        for pieces in entities.polygons(self._tolerance_px):
            ring = joined_ring([ring for piece in pieces for ring in piece.rings_xy])
            numbers = np.char.mod("%.6g", (ring / [width, height]).ravel())
            lines.append(" ".join(["0", *numbers.tolist()]) + "\n")
        write_text(self.path(FOLDER, frame.name, ".txt"), "".join(lines))
