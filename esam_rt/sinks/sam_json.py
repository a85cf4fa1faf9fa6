"""SamJson: one file a photo in the form of SA-1B."""

from __future__ import annotations

import json

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_text

FOLDER = "sam"


class SamJson(FileSink):
    """Write ``sam/<stem>.json`` for each frame: ``image`` and ``annotations``, as the files of SA-1B.

    An annotation has id, segmentation (compressed RLE), bbox, area, predicted_iou and crop_box. An entity is made of
    several masks, so ``stability_score`` and ``point_coords`` are left out.

    Args:
        folder: Folder for the files. Default: the folder of the run.

    Example:
        >>> with SamJson("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = (FOLDER,)

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the file of a frame.

        Args:
            frame: The photo.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        height, width = entities.labels.shape
        annotations = [
            {
                "id": entity["id"],
                "segmentation": entity["segmentation"],
                "bbox": entity["bbox"],
                "area": entity["area"],
                "predicted_iou": entity["score"],
                "crop_box": [0, 0, width, height],
            }
            for entity in entities.to_coco()
        ]
        content = {"image": {"file_name": frame.name, "width": width, "height": height}, "annotations": annotations}
        write_text(self.path(FOLDER, frame.name, ".json"), json.dumps(content) + "\n")
