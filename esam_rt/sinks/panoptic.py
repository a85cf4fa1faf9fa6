"""Panoptic: COCO's panoptic format, an id picture a photo and one JSON file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import atomic_path, write_bytes

FILE, FOLDER = "panoptic.json", "panoptic"
_SEGMENT = ("id", "category_id", "iscrowd", "bbox", "area")


class Panoptic(FileSink):
    """Write ``panoptic/<stem>.png`` for each frame, and ``panoptic.json`` when the run ends.

    A pixel's id is R + 256 G + 65536 B. 0 means no entity, i + 1 means entity i. The one category is ``entity``, a
    thing.

    Args:
        folder: Folder for the files. Default: the folder of the run.

    Example:
        >>> with Panoptic("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = (FOLDER, FILE)

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the id picture of a frame.

        Args:
            frame: The photo.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        self.remember(frame, entities)
        data = io.BytesIO()
        Image.fromarray(entities.to_panoptic()[0]).save(data, "PNG", compress_level=3)
        write_bytes(self.path(FOLDER, frame.name, ".png"), data.getvalue())

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the JSON file.

        Args:
            summary: Not used.

        Raises:
            OutputError: If the file cannot be written.
        """
        images: list[dict[str, Any]] = []
        with atomic_path(self.folder / FILE) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
            info = json.dumps({"description": "Entities found by esam-rt", "version": __version__})
            category = json.dumps({"id": 1, "name": "entity", "supercategory": "entity", "isthing": 1})
            file.write(f'{{"info": {info},\n"categories": [{category}],\n"annotations": [')
            for r in self.run.records():
                image = {"id": len(images) + 1, "file_name": r.name, "width": r.width, "height": r.height}
                segments = [{key: entity[key] for key in _SEGMENT} for entity in r.entities]
                annotation = {"image_id": image["id"], "file_name": f"{r.stem}.png", "segments_info": segments}
                file.write((",\n" if images else "\n") + json.dumps(annotation))
                images.append(image)
            file.write("],\n" + f'"images": {json.dumps(images)}}}\n')
