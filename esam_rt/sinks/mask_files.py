"""MaskFiles: one PNG an entity, and a table, as SAM's own command line writes them."""

from __future__ import annotations

import csv
import io

import numpy as np
from PIL import Image

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_bytes, write_text

FOLDER = "masks"


class MaskFiles(FileSink):
    """Write ``masks/<stem>/<id>.png`` for each entity, 0 or 255, and ``masks/<stem>/metadata.csv``.

    Ids count from 0, the highest score first. The table has id, area, bbox_x0, bbox_y0, bbox_w, bbox_h and
    predicted_iou. It is written last.

    Args:
        folder: Folder for the files. Default: the folder of the run.

    Example:
        >>> with MaskFiles("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = (FOLDER,)

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the masks and the table of a frame.

        Args:
            frame: The photo.
            entities: Its entities.

        Raises:
            OutputError: If a file cannot be written.
        """
        folder = self.path(FOLDER, frame.name, "")
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["id", "area", "bbox_x0", "bbox_y0", "bbox_w", "bbox_h", "predicted_iou"])
        mask = np.zeros(entities.labels.shape, np.uint8)
        for i, (x0, y0, x1, y1) in enumerate(entities.box_xyxy.tolist()):
            box = mask[y0:y1, x0:x1]
            np.multiply(entities.labels[y0:y1, x0:x1] == i + 1, 255, out=box, casting="unsafe")
            data = io.BytesIO()
            Image.fromarray(mask).convert("1").save(data, "PNG")
            write_bytes(folder / f"{i}.png", data.getvalue())
            box[:] = 0
            rows.writerow([i, int(entities.area[i]), x0, y0, x1 - x0, y1 - y0, f"{entities.score[i]:.6f}"])
        write_text(folder / "metadata.csv", table.getvalue())
