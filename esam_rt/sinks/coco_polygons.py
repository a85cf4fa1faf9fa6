"""CocoPolygons: all entities of a run as one COCO file with polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from esam_rt.polygons import joined_ring, mask_polygons
from esam_rt.rle import dense_mask
from esam_rt.sinks.coco_json import CocoJson

TOLERANCE_PX = 1.0


class CocoPolygons(CocoJson):
    """Write ``polygons.json`` when the run ends: `CocoJson` with polygons in place of run lengths.

    COCO's polygons have no holes. A hole is joined to the outer ring by a seam of no width: `pycocotools` fills it
    rightly. ``area`` and ``bbox`` are those of the mask.

    Args:
        folder: Folder for the file. Default: the folder of the run.
        tolerance_px: Largest distance between a polygon and the mask. 0 gives the exact mask.

    Example:
        >>> with CocoPolygons("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    file_name = "polygons.json"
    outputs = (file_name,)

    def __init__(self, folder: Path | str | None = None, tolerance_px: float = TOLERANCE_PX) -> None:
        super().__init__(folder)
        self._tolerance_px = tolerance_px

    def annotation(self, entity: dict[str, Any]) -> dict[str, Any]:
        """Return the annotation of an entity with polygons.

        Args:
            entity: Annotation of `EntityMap.to_coco`.
        """
        x, y, width, height = entity["bbox"]
        mask = dense_mask(entity["segmentation"])[y : y + height, x : x + width]
        rings = [joined_ring(piece.moved(x, y).rings_xy) for piece in mask_polygons(mask, self._tolerance_px)]
        return {**entity, "segmentation": [ring.ravel().tolist() for ring in rings]}
