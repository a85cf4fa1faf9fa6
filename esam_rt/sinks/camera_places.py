"""CameraPlaces: where the results of each camera of a bag stand."""

from __future__ import annotations

from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosHeader


class CameraPlaces:
    """A namespace for each image topic: the one that the camera has, or one that no other topic of the run has.

    ``/front/image_raw`` and ``/front/image_raw/compressed`` stand in ``/front``, ``/left`` stands in ``/left``. If both
    topics of ``/front`` come, the second one stands at its own name.
    """

    def __init__(self) -> None:
        self._places: dict[str, str] = {}

    def of(self, frame: Frame) -> str:
        """Return the namespace of a frame, such as ``/front``. It is empty for a frame that is of no bag.

        Args:
            frame: The frame.
        """
        if not isinstance(frame.header, RosHeader):
            return ""
        topic = frame.header.topic
        if topic not in self._places:
            image = topic.removesuffix("/compressed")
            space, _, name = image.rpartition("/")
            wanted = [space] if name.startswith("image") else []
            taken = self._places.values()
            self._places[topic] = next((place for place in (*wanted, image) if place not in taken), topic)
        return self._places[topic]
