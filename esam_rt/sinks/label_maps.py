"""Label maps: one 16-bit PNG a photo."""

from __future__ import annotations

import io

from PIL import Image

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_bytes


class LabelMaps(FileSink):
    """Write ``labels/<stem>.png`` for each frame: 16-bit grey at the photo's resolution, lossless.

    0 means no entity, i + 1 means entity i.

    Args:
        folder: Folder for the files. Default: the folder of the run.

    Example:
        >>> with LabelMaps("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = ("labels",)

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the label map of a frame.

        Args:
            frame: The photo.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        data = io.BytesIO()
        # Level 3: 0.20 s for 12 megapixels against 0.32 s at the default 6, for files half as large again.
        Image.fromarray(entities.labels).save(data, "PNG", compress_level=3)
        write_bytes(self.path("labels", frame.name, ".png"), data.getvalue())
