"""All entities of a run as one COCO file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from esam_rt._version import __version__
from esam_rt.sinks.photo_record import PhotoRecord
from esam_rt.storage.atomic import atomic_path


def write_coco(out: Path, records: Iterable[PhotoRecord]) -> Path:
    """Write `entities.json`: images (id, file_name, width, height) and annotations (compressed RLE, bbox, area, score)
    of the one category "entity". Ids count from 1 in the order of `records`, which are taken one at a time: memory
    holds the annotations of one photo and the names of all."""
    path = out / "entities.json"
    images: list[dict[str, Any]] = []
    annotation_id = 0
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        info = {"description": "Entities found by esam-rt", "version": __version__}
        file.write(f'{{"info": {json.dumps(info)},\n"categories": [{{"id": 1, "name": "entity"}}],\n"annotations": [')
        for record in records:
            image = {"id": len(images) + 1, "file_name": record.name, "width": record.width, "height": record.height}
            images.append(image)
            for entity in record.entities:
                separator = ",\n" if annotation_id else "\n"
                annotation_id += 1
                file.write(separator + json.dumps({**entity, "id": annotation_id, "image_id": image["id"]}))
        file.write("],\n" + f'"images": {json.dumps(images)}}}\n')
    return path
