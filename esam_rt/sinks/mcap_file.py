"""McapFile: entities as ROS 2 messages in an MCAP, for Foxglove, rosbags and ``ros2 bag``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError
from esam_rt.sinks import ros_messages as ros
from esam_rt.sinks.camera_places import CameraPlaces
from esam_rt.sinks.growing_file import GrowingFile
from esam_rt.sinks.overlays import overlay_jpeg
from esam_rt.sources.frame import Frame
from esam_rt.sources.raw_messages import Channel, RawMessage, raw_messages
from esam_rt.sources.ros_images import IMAGE_TYPES, RosHeader

_CHUNK_BYTES = 1 << 20
_log = logging.getLogger("esam_rt")
_LATCHED = (
    "- history: 1\n  depth: 1\n  reliability: 1\n  durability: 1\n  deadline: {sec: 9223372036, nsec: 854775807}\n"
    "  lifespan: {sec: 9223372036, nsec: 854775807}\n  liveliness: 1\n"
    "  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}\n  avoid_ros_namespace_conventions: false"
)


class McapFile(GrowingFile):
    """Write ``entities.mcap``. It needs the extra ``bags``.

    Each frame gives three messages. ``esam/entities`` is a `sensor_msgs/Image` in mono16: 0 for no entity, i + 1 for
    detection i. ``esam/detections`` is a `vision_msgs/Detection2DArray`; ``id`` is the track id.
    ``esam/overlay/compressed`` is a JPEG. ``esam/label_info`` comes once. Topics stand beside the camera's:
    ``/front/image_raw`` leads to ``/front/esam/entities``, and ``/left`` to ``/left/esam/entities``. A second topic of
    images beside ``/front/image_raw`` keeps its own name. Headers and times are those of the image.

    The file grows in chunks of 1 MB. A killed run leaves the whole chunks, and `Bag` reads them.

    Args:
        folder: Folder for the file. Default: the folder of the run.
        png: Write ids as PNG to ``esam/entities/compressed`` in place of the raw image, which takes 4 MB at 1080p.
        overlay: Write overlays.
        copy_topics: Topics of the bag that are copied as they were recorded: definitions, bytes and times. ``all`` are
            those without images. The copy ends at the first image beyond the last that was segmented.

    Raises:
        MissingDependencyError: rosbags or mcap is not installed.

    Example:
        >>> with McapFile("out") as sink:  # doctest: +SKIP
        ...     for frame in Bag("drive.mcap"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    file_name = "entities.mcap"
    outputs = (file_name,)

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        png: bool = False,
        overlay: bool = True,
        copy_topics: Sequence[str] = (),
    ) -> None:
        super().__init__(folder)
        ros.types()
        _mcap()
        self._png, self._overlay, self.copy_topics = png, overlay, tuple(copy_topics)
        self._opened: IO[bytes] | None = None
        self._writer: Any = None
        self._channels: dict[Channel, int] = {}
        self._copies: dict[Path, _Copies] = {}
        self._images: dict[str, int] = {}  # time of the last image by topic
        self._places = CameraPlaces()

    def append(self, frame: Frame, entities: EntityMap, is_first: bool) -> None:
        """Append the messages of a frame.

        Args:
            frame: The frame.
            entities: Its entities.
            is_first: The file must be made.

        Raises:
            OSError: The file cannot be written.
        """
        if is_first:
            self._begin()
        header = ros.header_of(frame)
        own = frame.header
        log_time_ns = own.log_time_ns if isinstance(own, RosHeader) else frame.stamp_ns or 0
        space = self._places.of(frame)
        if isinstance(own, RosHeader) and frame.path is not None and self.copy_topics:
            self._images[own.topic] = log_time_ns
            if frame.path not in self._copies:
                self._copies[frame.path] = _Copies(raw_messages(frame.path), self.copy_topics)
            for message in self._copies[frame.path].until(self._images, log_time_ns):
                self._add(message)

        def add(topic: str, message: Any) -> None:
            self._add(_raw(f"{space}/esam/{topic}", message, log_time_ns))

        if _channel(f"{space}/esam/label_info", ros.LABEL_INFO) not in self._channels:
            add("label_info", ros.label_info(header))
        if self._png:
            add("entities/compressed", ros.compressed_image(header, ros.label_png(entities.labels), "png"))
        else:
            add("entities", ros.id_image(header, entities))
        add("detections", ros.detections(header, entities))
        if self._overlay:
            overlay = overlay_jpeg(frame.image_hwc_rgb, entities)
            add("overlay/compressed", ros.compressed_image(header, overlay, "jpeg"))
        self._opened.flush()  # type: ignore[union-attr]  # a killed run must not lose a whole chunk

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Copy the last messages of other topics, and write the index.

        Args:
            summary: Not used.

        Raises:
            OSError: The file cannot be written.
        """
        assert self._opened is not None  # a frame was written
        with self._opened:
            for bag, copies in self._copies.items():
                for message in copies.until(self._images, None):
                    self._add(message)
                if missing := set(self.copy_topics) - copies.found - {"all"}:
                    _log.warning("%s: found no messages of %s to copy.", bag, ", ".join(sorted(missing)))
            self._copies.clear()  # closes the bags
            self._writer.finish()

    def _begin(self) -> None:
        self._opened, self._channels, self._copies, self._images = self.file.open("wb"), {}, {}, {}
        self._writer = _mcap().Writer(self._opened, chunk_size=_CHUNK_BYTES)
        self._writer.start(profile="ros2", library=f"esam-rt {__version__}")

    def _add(self, message: RawMessage) -> None:
        channel = message.channel
        if channel not in self._channels:
            about = channel.schema_name, channel.schema_encoding, channel.schema
            schema = self._writer.register_schema(*about) if channel.schema_name else 0
            self._channels[channel] = self._writer.register_channel(
                channel.topic, channel.encoding, schema, dict(channel.metadata)
            )
        number = self._channels[channel]
        self._writer.add_message(number, message.log_time_ns, message.data, message.publish_time_ns, message.sequence)


class _Copies:
    """The messages of some topics of a bag, in its order.

    Args:
        messages: All messages of the bag.
        topics: Names of topics, or ``all``.

    Attributes:
        found: Topics that were copied.
    """

    def __init__(self, messages: Iterator[RawMessage], topics: Sequence[str]) -> None:
        self._messages, self._topics = messages, topics
        self._next = next(messages, None)
        self.found: set[str] = set()

    def until(self, images: Mapping[str, int], time_ns: int | None) -> Iterator[RawMessage]:
        """Yield what was recorded up to a time. Without one, up to an image that was not segmented.

        Args:
            images: Time of the last image that was segmented, by topic.
            time_ns: Time of the recording, or None.
        """
        while (message := self._next) is not None:
            topic = message.channel.topic
            if time_ns is None and topic in images and message.log_time_ns > images[topic]:
                return
            if time_ns is not None and message.log_time_ns > time_ns:
                return
            if topic in self._topics or ("all" in self._topics and message.channel.schema_name not in IMAGE_TYPES):
                self.found.add(topic)
                yield message
            self._next = next(self._messages, None)


@cache
def _channel(topic: str, kind: str) -> Channel:
    latched = {"offered_qos_profiles": _LATCHED} if kind == ros.LABEL_INFO else {}
    return Channel(topic, kind, "ros2msg", ros.definition(kind).encode(), "cdr", latched)


def _raw(topic: str, message: Any, log_time_ns: int) -> RawMessage:
    """Return a message of our own: it counts as published when its image was recorded."""
    return RawMessage(_channel(topic, message.__msgtype__), log_time_ns, log_time_ns, 0, ros.serialized(message))


def _mcap() -> Any:
    try:
        import mcap.writer
    except ImportError as e:
        raise MissingDependencyError("McapFile needs rosbags and mcap: pip install 'esam-rt[bags]'") from e
    return mcap.writer
