"""CameraPlaces: where the results of each camera of a bag stand."""

from __future__ import annotations

import itertools

from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosHeader


class CameraPlaces:
    """A namespace for each image topic: the one that the camera has, or one that no other topic of the run has.

    ``/front/image_raw`` and ``/front/image_raw/compressed`` stand in ``/front``, ``/left`` stands in ``/left``. If both
    topics of ``/front`` come, the second one stands at its own name. If that is taken too, a number follows it.

    Args:
        root: The namespace of frames that are of no bag, and of a topic without one, such as ``/image_raw``.
    """

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._places: dict[str, str] = {}

    def of(self, frame: Frame) -> str:
        """Return the namespace of a frame, such as ``/front``.

        Args:
            frame: The frame.
        """
        if not isinstance(frame.header, RosHeader):
            return self._root
        topic = frame.header.topic
        if topic not in self._places:
            image = topic.removesuffix("/compressed")
            space, _, name = image.rpartition("/")
            own = [space or self._root] if name.startswith("image") else []
            others = (f"{topic}_{number}" for number in itertools.count(2))
            taken = self._places.values()
            self._places[topic] = next(p for p in itertools.chain(own, (image, topic), others) if p not in taken)
        return self._places[topic]
