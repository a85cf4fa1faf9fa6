"""ImageTopic: serialized images of a ROS topic as frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from esam_rt.sinks import ros_messages
from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosImages, ros_frame


class ImageTopic:
    """Images of a topic. A subscription puts messages in, and a stream reads frames.

    A message is read when its frame is asked for, since reading a large image that is dropped afterwards costs time.

    Args:
        topic: Name of the topic.
        kind: Type of its messages, one of ``IMAGE_TYPES``.
        depth: Messages that wait at most. The oldest is dropped for a new one.
        on_unreadable: Called with the error of a message without an image.
    """

    is_live = True
    length: int | None = None

    def __init__(self, topic: str, kind: str, depth: int, on_unreadable: Callable[[Exception], None]) -> None:
        self._topic, self._kind, self._depth, self._on_unreadable = topic, kind, depth, on_unreadable
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.received = self.dropped = self.unreadable = 0

    def put(self, message: bytes, time_ns: int) -> None:
        """Take a message. It returns at once.

        Args:
            message: The message in CDR.
            time_ns: Time of the reception.
        """
        with self._changed:
            self.received += 1
            if len(self._waiting) == self._depth:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append((message, time_ns))
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images until `close`."""
        types, images, number = ros_messages.types(), RosImages(), 0
        while (taken := self._take()) is not None:
            message, time_ns = taken
            name = f"{self._topic.strip('/')}/{number:06}"
            try:
                frame = ros_frame(types.deserialize_cdr(message, self._kind), images, name, self._topic, time_ns)
            except Exception as e:  # of the encoding, or of rosbags at damaged bytes
                self.unreadable += 1
                self._on_unreadable(e)
                continue
            number += 1
            yield frame

    def close(self) -> None:
        """End the iteration. Waiting messages are dropped."""
        with self._changed:
            self._closed = True
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()

    def _take(self) -> tuple[bytes, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else self._waiting.popleft()
