"""Messages of the node as CycloneDDS sees them, the middleware of many robots: to the byte, and over a real network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cyclonedds.core import Policy, Qos, ReadCondition, SampleState, WaitSet
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from esam_rt.entity_map import EntityMap
from esam_rt.integrations.ros.live_segmentation import OUTPUTS, LiveSegmentation
from esam_rt.integrations.ros.node_diagnostics import NodeReport, diagnostics
from esam_rt.integrations.ros.node_parameters import NodeParameters
from esam_rt.sinks import ros_messages
from tests.support.dds_types import DDS_TYPES, LOOPBACK
from tests.support.ros_scene import FRAME_ID, H, SquareSegmenter, W, image_message, picture, stamp_ns

SENSOR_DATA = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(5))
SYSTEM_DEFAULT = Qos(Policy.Reliability.Reliable(duration(seconds=10)), Policy.History.KeepLast(5))
LATCHED = Qos(Policy.Reliability.Reliable(duration(seconds=10)), Policy.Durability.TransientLocal,
              Policy.History.KeepLast(1))  # fmt: skip


def random_entities(seed: int, count: int, track: bool) -> EntityMap:
    random = np.random.default_rng(seed)
    labels = random.integers(0, count + 1, (7 + seed, 11 + 2 * seed))
    found = EntityMap.from_labels(labels, random.random(count), np.zeros(count, int))
    ids = random.integers(0, 2**40, len(found)) if track else None
    return EntityMap(*(getattr(found, n) for n in ("labels", "score", "area", "box_xyxy", "centroid_xy", "stage")),
                     track_id=ids)  # fmt: skip


@pytest.mark.parametrize("frame_id", ["", "c", "camera_front", "ü"])
@pytest.mark.parametrize(("seed", "count", "track"), [(0, 0, False), (1, 1, True), (2, 9, True), (5, 60, False)])
def test_messages_are_those_of_cyclonedds_to_the_byte(frame_id: str, seed: int, count: int, track: bool) -> None:
    entities = random_entities(seed, count, track)
    header = ros_messages.header(stamp_ns(seed), frame_id)
    made = [
        ros_messages.id_image(header, entities),
        ros_messages.detections(header, entities),
        ros_messages.label_info(header),
        ros_messages.compressed_image(header, bytes(range(seed)), "jpeg"),
        diagnostics(NodeReport({"done": seed}, {}, error=frame_id), frame_id, "tiny", stamp_ns(seed)),
    ]
    for message in made:
        data = ros_messages.serialized(message)
        seen: Any = DDS_TYPES[message.__msgtype__].deserialize(data)
        written = seen.serialize()
        assert written[4:] == data[4:].ljust(len(written) - 4, b"\0"), message.__msgtype__  # 4 bytes name the encoding
        assert len(written) - len(data) < 4  # padding at the end
        assert seen.header.frame_id == ("" if "diagnostic" in message.__msgtype__ else frame_id)
        assert seen.header.stamp.sec * 10**9 + seen.header.stamp.nanosec == stamp_ns(seed)


@pytest.fixture
def domain_id() -> Iterator[int]:
    """A domain that no other test process uses, on the loopback interface."""
    number = 1 + os.getpid() % 200
    domain = Domain(number, LOOPBACK)
    yield number
    del domain


class Ros:
    """Readers and writers of topics, as another ROS node has them."""

    def __init__(self, domain_id: int) -> None:
        self._participant = DomainParticipant(domain_id)

    def writer(self, topic: str, kind: str, qos: Qos) -> DataWriter[Any]:
        return DataWriter(self._participant, Topic(self._participant, f"rt/{topic}", DDS_TYPES[kind]), qos)

    def reader(self, topic: str, kind: str, qos: Qos) -> DataReader[Any]:
        return DataReader(self._participant, Topic(self._participant, f"rt/{topic}", DDS_TYPES[kind]), qos)


def taken(reader: DataReader[Any], count: int = 1) -> list[Any]:
    waits = WaitSet(reader.participant)
    waits.attach(ReadCondition(reader, SampleState.Any))
    found: list[Any] = []
    while len(found) < count:
        assert waits.wait(duration(seconds=60)), f"{len(found)} of {count} messages came"
        found += reader.take(N=count)
    return found


def matched(writer: DataWriter[Any], reader: DataReader[Any]) -> None:
    """Wait until they have found each other."""
    for _ in range(600):
        if writer.get_matched_subscriptions() and reader.get_matched_publications():
            return
        WaitSet(reader.participant).wait(duration(milliseconds=100))
    raise AssertionError("They did not find each other.")


class Bridge:
    """In the place of rclpy: brings bytes between DDS and the node's logic."""

    def __init__(self, ros: Ros) -> None:
        self.writers = {
            name: ros.writer(f"esam_rt/{name}", kind, LATCHED if name == "label_info" else SYSTEM_DEFAULT)
            for name, kind in OUTPUTS.items()
        }

    def is_wanted(self, name: str) -> bool:
        return bool(self.writers[name].get_matched_subscriptions())

    def publish(self, name: str, message: bytes) -> None:
        self.writers[name].write(DDS_TYPES[OUTPUTS[name]].deserialize(message))


def test_a_camera_a_node_and_a_subscriber_over_dds(domain_id: int) -> None:
    camera_side, node_side = Ros(domain_id), Ros(domain_id)
    camera = camera_side.writer("image", ros_messages.IMAGE, SYSTEM_DEFAULT)
    subscription = node_side.reader("image", ros_messages.IMAGE, SENSOR_DATA)
    bridge = Bridge(node_side)
    readers = {n: camera_side.reader(f"esam_rt/{n}", OUTPUTS[n], SYSTEM_DEFAULT) for n in ("entities", "detections")}
    matched(camera, subscription)
    for name, reader in readers.items():
        matched(bridge.writers[name], reader)
    node = LiveSegmentation(SquareSegmenter(), NodeParameters(), "/image", bridge, lambda: stamp_ns(9), print)
    try:
        for number in range(5):
            camera.write(DDS_TYPES[ros_messages.IMAGE].deserialize(image_message(number)))
            (image,) = taken(subscription)
            node.receive(image.serialize())
            (ids,), (found,) = taken(readers["entities"]), taken(readers["detections"])
            square = picture(number)[..., 0] > 200
            assert np.array_equal(np.array(ids.data, np.uint8).view("<u2").reshape(H, W), np.where(square, 1, 2))
            for message in (ids, found, *found.detections):
                assert (message.header.stamp, message.header.frame_id) == (image.header.stamp, FRAME_ID)
            assert [d.results[0].hypothesis.class_id for d in found.detections] == ["entity", "entity"]
            assert (found.detections[0].bbox.center.position.x, found.detections[0].bbox.size_x) == (number + 5, 10)
        late = camera_side.reader("esam_rt/label_info", ros_messages.LABEL_INFO, LATCHED)
        assert [c.class_name for c in taken(late)[0].class_map] == ["entity"]
    finally:
        node.close()
