"""Labelme: one file a photo, to be opened and corrected in labelme or X-AnyLabeling."""

from __future__ import annotations

import json
import os
from pathlib import Path

from esam_rt.entity_map import EntityMap
from esam_rt.polygons import joined_ring
from esam_rt.sinks.coco_polygons import TOLERANCE_PX
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_text

FOLDER = "labelme"
VERSION = "5.5.0"  # of the file format


class Labelme(FileSink):
    """Write ``labelme/<stem>.json`` for each frame: one polygon for each piece of an entity.

    Pieces of one entity share a ``group_id``, counted from 1. ``imagePath`` leads from the file to the photo. If the
    files go into a bucket, it is the photo's name. Holes are joined to the outer ring by seams of no width.

    Args:
        folder: Folder for the files. Default: the folder of the run.
        photos: Folder of the photos. Default: the folder of the files.
        tolerance_px: Largest distance between a polygon and the mask.

    Example:
        >>> with Labelme("out", photos="photos") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = (FOLDER,)

    def __init__(
        self,
        folder: Path | str | None = None,
        photos: Path | str | None = None,
        tolerance_px: float = TOLERANCE_PX,
    ) -> None:
        super().__init__(folder)
        self._photos, self._tolerance_px = photos, tolerance_px

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the file of a frame.

        Args:
            frame: The photo.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        file = self.path(FOLDER, frame.name, ".json")
        height, width = entities.labels.shape
        shapes = [
            {
                "label": "entity",
                "points": joined_ring(piece.rings_xy).tolist(),
                "group_id": number,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for number, pieces in enumerate(entities.polygons(self._tolerance_px), 1)
            for piece in pieces
        ]
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": self._way_to(frame, file),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_text(file, json.dumps(content) + "\n")

    def _way_to(self, frame: Frame, file: Path) -> str:
        """Return the path from a file to the photo, or the frame's name if the file is moved elsewhere."""
        if self.run.is_staging:
            return frame.name
        return os.path.relpath(frame.path or self.folder / frame.name, file.parent)
