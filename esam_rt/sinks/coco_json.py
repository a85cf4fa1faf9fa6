"""CocoJson: all entities of a run as one COCO file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import atomic_path


class CocoJson(FileSink):
    """Write ``entities.json`` when the run ends: images, and annotations of the one category ``entity``.

    Images have id, file_name, width, height and complete. The last is false if a deadline ended the work on the photo.
    Annotations have a compressed RLE, bbox, area and score. Ids count from 1 in the order of the frames. Memory holds
    the annotations of one frame and the names of all.

    Args:
        folder: Folder for the file. Default: the folder of the run.

    Example:
        >>> with CocoJson("out") as sink:  # doctest: +SKIP
        ...     for frame in PhotoFolder("photos"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    file_name = "entities.json"
    outputs = (file_name,)

    def annotation(self, entity: dict[str, Any]) -> dict[str, Any]:
        """Return the annotation of an entity as the file holds it.

        Args:
            entity: Annotation of `EntityMap.to_coco`.
        """
        return entity

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Keep the annotations of a frame, if no run keeps them.

        Args:
            frame: The photo.
            entities: Its entities.
        """
        self.remember(frame, entities)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the file.

        Args:
            summary: Not used.

        Raises:
            OutputError: If the file cannot be written.
        """
        images: list[dict[str, Any]] = []
        annotation_id = 0
        with (
            atomic_path(self.file) as temporary,
            temporary.open("w", encoding="ascii", newline="\n") as file,
        ):
            info = json.dumps({"description": "Entities found by esam-rt", "version": __version__})
            file.write(f'{{"info": {info},\n"categories": [{{"id": 1, "name": "entity"}}],\n"annotations": [')
            for r in self.run.records():
                image = {"id": len(images) + 1, "file_name": r.name, "width": r.width, "height": r.height}
                images.append({**image, "complete": r.complete})
                for entity in r.entities:
                    separator = ",\n" if annotation_id else "\n"
                    annotation_id += 1
                    entity = {**self.annotation(entity), "id": annotation_id, "image_id": image["id"]}
                    file.write(separator + json.dumps(entity))
            file.write("],\n" + f'"images": {json.dumps(images)}}}\n')
