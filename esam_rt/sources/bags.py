"""Bag: camera images of ROS bags, without ROS: MCAP and sqlite3 of ROS 2, and bags of ROS 1."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from esam_rt.errors import InputError, MissingDependencyError
from esam_rt.sources.frame import Frame
from esam_rt.sources.mcap_records import mcap_records, warn_of_end
from esam_rt.sources.ros_images import IMAGE_TYPES, RosImages, ros_frame

SUFFIXES = (".mcap", ".db3", ".bag")
_log = logging.getLogger("esam_rt")


@dataclass(frozen=True)
class _Message:
    topic: str
    log_time_ns: int
    read: Callable[[], Any]


class Bag:
    """Images of a ROS bag in the order of their recording. It needs the extra ``bags``.

    Frames are named after topic and number: ``camera/front/000012``. ``header`` is a `RosHeader`. A cut-off MCAP gives
    the messages that it holds, and a warning says where it ends. Messages without an image are left out with a warning.

    Args:
        path: ``.mcap``, ``.db3``, ``.bag``, or the folder of a ROS 2 bag.
        topics: Topics of images. Default: the only one.
        sample_range: Value of black and of white for samples of more than 8 bits. Default: percentiles of the first
            image of each topic.

    Raises:
        InputError: The bag cannot be opened, a topic is missing, or there are several and none was chosen.
        MissingDependencyError: The packages that read bags are not installed.

    Example:
        >>> for frame in Bag("drive.mcap", ["/front/image_raw"]):  # doctest: +SKIP
        ...     entities = segmenter(frame.image_hwc_rgb)
    """

    is_live = False

    def __init__(
        self, path: str | Path, topics: Sequence[str] = (), sample_range: tuple[float, float] | None = None
    ) -> None:
        self.path, self._sample_range = Path(path), sample_range
        if not self.path.exists():
            raise InputError(f"{self.path}: there is no such bag. Check the path.")
        self._is_whole, found = _image_topics(self.path)
        self.topics = list(topics) or list(found)
        missing = [topic for topic in self.topics if topic not in found]
        listed = ", ".join(f"{topic} ({count or 'some'})" for topic, count in found.items()) or "no images"
        if missing or not found:
            asked = f"found no images of {', '.join(missing)}" if missing else "found no images"
            raise InputError(f"{self.path}: {asked}; it holds {listed}. Choose one of these topics.")
        if len(self.topics) > 1 and not topics:
            raise InputError(f"{self.path}: found several topics of images: {listed}. Choose with --topic.")
        counts = [found[topic] for topic in self.topics]
        self._length = sum(counts) if self._is_whole else None

    @property
    def length(self) -> int | None:
        """Number of messages, or None if the bag is cut off."""
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        """Yield the images."""
        images = {topic: RosImages(self._sample_range) for topic in self.topics}
        number: Counter[str] = Counter()
        left_out: Counter[tuple[str, str]] = Counter()
        messages = _whole_bag(self.path, self.topics) if self._is_whole else _cut_off_bag(self.path, self.topics)
        for message in messages:
            topic = message.topic
            name = f"{topic.strip('/')}/{number[topic]:06}"
            number[topic] += 1
            try:
                frame = ros_frame(message.read(), images[topic], name, topic, message.log_time_ns)
            except Exception as e:  # of the encoding, or of rosbags at damaged bytes
                left_out[topic, str(e)] += 1
                continue
            yield replace(frame, path=self.path)
        for (topic, reason), count in left_out.items():
            _log.warning("%s: %s: %d messages were left out (%s).", self.path, topic, count, reason)


def _image_topics(path: Path) -> tuple[bool, dict[str, int]]:
    """Return whether the bag is whole, and the number of messages of each image topic."""
    rosbags = _rosbags()
    try:
        with rosbags.AnyReader([path]) as reader:
            found: Counter[str] = Counter()
            for c in reader.connections:
                if c.msgtype in IMAGE_TYPES:
                    found[c.topic] += c.msgcount
            return True, dict(found)
    except Exception as e:  # at damaged bags, rosbags raises errors of its libraries: SQLite, zstd, YAML, struct
        if path.suffix != ".mcap":
            raise InputError(f"{path}: is no bag, or it is damaged ({e}). Copy it again, or reindex it.") from e
    # A recorder that was killed leaves no index. The messages are read from the beginning.
    found = Counter(channel.topic for _, channel, _ in mcap_records(path, _is_image, warn=False))
    if not found:
        raise InputError(f"{path}: is no MCAP with images, or it is damaged. Copy it again.")
    return False, dict(found)


def _whole_bag(path: Path, topics: Sequence[str]) -> Iterator[_Message]:
    last_ns = None
    with _rosbags().AnyReader([path]) as reader:
        connections = [c for c in reader.connections if c.topic in topics and c.msgtype in IMAGE_TYPES]
        try:
            for connection, log_time_ns, data in reader.messages(connections):
                last_ns = log_time_ns
                yield _Message(connection.topic, last_ns, partial(reader.deserialize, data, connection.msgtype))
        except Exception as e:  # as above
            warn_of_end(path, last_ns, e)


def _cut_off_bag(path: Path, topics: Sequence[str]) -> Iterator[_Message]:
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.LATEST)
    for schema, channel, message in mcap_records(path, _is_image):
        if channel.topic in topics:
            kind = schema.name if "/msg/" in schema.name else schema.name.replace("/", "/msg/")
            yield _Message(channel.topic, message.log_time, partial(types.deserialize_cdr, message.data, kind))


def _is_image(schema: Any, channel: Any) -> bool:
    return schema.name in IMAGE_TYPES and channel.message_encoding == "cdr"


def _rosbags() -> Any:
    try:
        import mcap
        import rosbags.highlevel
    except ImportError as e:
        raise MissingDependencyError("Bag needs rosbags and mcap: pip install 'esam-rt[bags]'") from e
    del mcap
    return rosbags.highlevel
