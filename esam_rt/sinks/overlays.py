"""Overlays: photos with their entities drawn over them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.drawing import jpeg, shrink, tint
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sinks.palette import entity_colors
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_bytes

MAX_JPEG_SIDE = 65_500  # libjpeg's limit
_MESSAGE_QUALITY = 85


class Overlays(FileSink):
    """Write ``overlays/<stem>.jpg`` for each frame: the photo with tinted and outlined entities.

    Overlays have the photo's resolution. Sides are at most 65,500 pixels, as in any JPEG.

    Args:
        folder: Folder for the files. Default: the folder of the run.

    Example:
        >>> with Overlays("out") as sink:  # doctest: +SKIP
        ...     sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = ("overlays",)
    draws_on_image = True

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Write the overlay of a frame.

        Args:
            frame: The photo. It is drawn over, without a copy, if it is disposable.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        drawn = draw_overlay(frame.image_hwc_rgb, entities, max_side=MAX_JPEG_SIDE, reuse=frame.disposable)
        write_bytes(self.path("overlays", frame.name, ".jpg"), jpeg(drawn, quality=92))


def draw_overlay(
    image_hwc_rgb: NDArray[np.uint8], result: EntityMap, *, max_side: int | None = None, reuse: bool = False
) -> NDArray[np.uint8]:
    """Draw the entities over a photo: a light tint inside, a band of the color along the border, a white line on it.

    Args:
        image_hwc_rgb: uint8 [H, W, 3] of the same height and width as ``result.labels``.
        result: Entities of the photo.
        max_side: Longest side of the result, pixels. Default: the photo's.
        reuse: Draw over the array itself, if it is writable. Default: over a copy.

    Returns:
        uint8 RGB [H, W, 3]. Pixels without an entity are unchanged.
    """
    image, labels = shrink(image_hwc_rgb, result.labels, max_side or max(result.labels.shape))
    in_place = (reuse or image is not image_hwc_rgb) and image.flags.writeable
    return tint(image, labels, entity_colors(result), image if in_place else None)


def overlay_jpeg(image_hwc_rgb: NDArray[np.uint8], result: EntityMap) -> bytes:
    """Draw the entities over a copy of a photo, for a message.

    Args:
        image_hwc_rgb: uint8 [H, W, 3] of the same height and width as ``result.labels``.
        result: Entities of the photo.

    Returns:
        The bytes of a JPEG.
    """
    return jpeg(draw_overlay(image_hwc_rgb, result), _MESSAGE_QUALITY)
