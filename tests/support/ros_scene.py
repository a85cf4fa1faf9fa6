"""Images of a moving square as ROS messages, and a segmenter that finds it without networks."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.sinks import ros_messages
from esam_rt.stages import Stage

H, W = 30, 41
FRAME_ID = "camera_front"
STAMP_NS = 1_700_000_000_123_456_789


def picture(number: int) -> NDArray[np.uint8]:
    image = np.full((H, W, 3), 40, np.uint8)
    image[5:15, number : number + 10] = [250, 120, 10]
    return image


def stamp_ns(number: int) -> int:
    return STAMP_NS + number * 50_000_000


def image_message(number: int, encoding: str = "bgr8") -> bytes:
    """A ``sensor_msgs/Image`` with padded rows, in CDR."""
    rows = np.pad(picture(number)[..., ::-1].reshape(H, -1), ((0, 0), (0, 5)))
    header = ros_messages.header(stamp_ns(number), FRAME_ID)
    made = ros_messages.types().types[ros_messages.IMAGE](header, H, W, encoding, 0, W * 3 + 5, rows.ravel())
    return ros_messages.serialized(made)


class SquareSegmenter:
    """Finds the square and the ground.

    Args:
        before: Called with the number of the image. It may wait or raise.
    """

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self._before, self.seen, self.closed = before, 0, threading.Event()

    def __call__(self, image_hwc_rgb: NDArray[np.uint8], deadline_s: float | None = None) -> EntityMap:
        self.seen += 1
        self._before(self.seen - 1)
        labels = np.where(image_hwc_rgb[..., 0] > 200, 1, 2)
        return EntityMap.from_labels(labels, np.array([0.9, 0.8]), np.full(2, Stage.MMG, np.uint8))

    def warm_up(self, sizes_hw: object) -> None:
        """Nothing to warm."""

    def model_info(self) -> dict[str, str]:
        return {"name": "square", "backend": "none", "device": "cpu"}

    def close(self) -> None:
        self.closed.set()
