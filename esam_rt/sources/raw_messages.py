"""Messages of ROS 2 bags as they were recorded, of any type, to be copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from esam_rt.errors import InputError, MissingDependencyError
from esam_rt.sources.mcap_records import mcap_records


@dataclass(frozen=True)
class Channel:
    """A topic, as a bag describes it.

    Attributes:
        topic: Its name.
        schema_name: Type of its messages.
        schema_encoding: Language of the definition.
        schema: Definition of the type.
        encoding: Encoding of the messages.
        metadata: Texts of the recorder, such as the offered QoS.
    """

    topic: str
    schema_name: str
    schema_encoding: str
    schema: bytes
    encoding: str
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class RawMessage:
    """A message as it was recorded.

    Attributes:
        channel: Its topic.
        log_time_ns: Time of the recording.
        publish_time_ns: Time of the publication.
        sequence: Number that the recorder gave it.
        data: The message itself.
    """

    channel: Channel
    log_time_ns: int
    publish_time_ns: int
    sequence: int
    data: bytes


def raw_messages(bag: Path) -> Iterator[RawMessage]:
    """Yield all messages of a bag in the order of the file. A cut-off MCAP gives what it holds.

    Args:
        bag: ``.mcap``, ``.db3``, or the folder of a ROS 2 bag.

    Raises:
        InputError: The bag is of ROS 1, or cannot be read.
        MissingDependencyError: The packages that read bags are not installed.
    """
    files = sorted(bag.glob("*.mcap")) if bag.is_dir() else [bag] if bag.suffix == ".mcap" else []
    for file in files:
        for schema, channel, message in mcap_records(file, lambda schema, channel: True, warn=False):
            about = Channel(
                channel.topic, schema.name, schema.encoding, schema.data, channel.message_encoding, channel.metadata
            )
            yield RawMessage(about, message.log_time, message.publish_time, message.sequence, message.data)
    if not files:
        yield from _of_sqlite(bag)


def _of_sqlite(bag: Path) -> Iterator[RawMessage]:
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore
    except ImportError as e:
        raise MissingDependencyError("Bag needs rosbags and mcap: pip install 'esam-rt[bags]'") from e
    if bag.suffix == ".bag":
        raise InputError(f"{bag}: is a bag of ROS 1, and topics are copied from ROS 2 alone. Leave --copy-topics out.")
    known = get_typestore(Stores.LATEST)
    with AnyReader([bag]) as reader:
        channels = {}
        for c in reader.connections:
            definition, language = c.msgdef.data, "ros2idl" if c.msgdef.format.name == "IDL" else "ros2msg"
            if not definition and c.msgtype in known.types:  # old bags hold no definitions
                definition = known.generate_msgdef(c.msgtype, ros_version=2)[0]
            about = (c.topic, c.msgtype, language if definition else "", definition.encode(), "cdr")
            channels[c.id] = Channel(*about)
        for number, (connection, log_time_ns, data) in enumerate(reader.messages()):
            yield RawMessage(channels[connection.id], log_time_ns, log_time_ns, number, bytes(data))
