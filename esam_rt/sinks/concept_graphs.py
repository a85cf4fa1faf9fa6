"""ConceptGraphs: detections of frames, from which ConceptGraphs builds a map of objects in 3D."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_bytes, write_json

FOLDER, CLASSES = "gsa_detections_esam", "gsa_classes_esam.json"
_GZIP_LEVEL = 3


class ConceptGraphs(FileSink):
    """Write ``gsa_detections_esam/<stem>.pkl.gz`` for each frame, and ``gsa_classes_esam.json``.

    They are the files that ConceptGraphs reads with ``gsa_variant=esam``. A frame is a dict with xyxy float32 [N, 4],
    confidence float32 [N], class_id int64 [N], mask bool [N, H, W], classes (``entity`` alone), image_crops (arrays),
    image_feats and text_feats float32 [N, C].

    ``image_feats`` are ``EntityMap.features``, with a length of 1. They are not those of CLIP, so that objects merge by
    looks but cannot be asked for by words. Without features, and for ``text_feats``, they are 1 for each entity.
    Objects then merge by place alone.

    Args:
        folder: Folder for the files. Default: the folder of the run.

    Example:
        >>> with ConceptGraphs("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb, features=True))
    """

    outputs = (FOLDER, CLASSES)

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the detections of a frame.

        Args:
            frame: The photo.
            entities: Its entities. Their masks take N bytes a pixel of memory.

        Raises:
            OutputError: If the file cannot be written.
        """
        count = len(entities)
        masks = np.zeros((count, *entities.labels.shape), bool)
        crops = []
        for i, (x0, y0, x1, y1) in enumerate(entities.box_xyxy.tolist()):
            masks[i, y0:y1, x0:x1] = entities.labels[y0:y1, x0:x1] == i + 1
            crops.append(frame.image_hwc_rgb[y0:y1, x0:x1])
        ones = np.ones((count, 1), np.float32)
        detections = {
            "xyxy": entities.box_xyxy.astype(np.float32).reshape(-1, 4),
            "confidence": entities.score.astype(np.float32),
            "class_id": np.zeros(count, np.int64),
            "mask": masks,
            "classes": ["entity"],
            "image_crops": crops,
            "image_feats": ones if entities.features is None else _of_length_1(entities.features),
            "text_feats": ones,
        }
        file = io.BytesIO()
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as packed:
            _Pickler(packed, protocol=4).dump(detections)
        write_bytes(self.path(FOLDER, frame.name, ".pkl.gz"), file.getvalue())

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the names of the classes.

        Args:
            summary: Not used.

        Raises:
            OutputError: If the file cannot be written.
        """
        write_json(self.folder / CLASSES, ["entity"])


class _Pickler(pickle.Pickler):
    """Pickles arrays by names that every NumPy knows: NumPy 2 names a module that older ones do not have."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return np.ndarray, (value.shape, value.dtype.str, bytearray(value.tobytes()))
        return NotImplemented


def _of_length_1(features: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.finfo(np.float32).tiny), np.float32)
