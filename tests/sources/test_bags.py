"""Bags that rosbags wrote: ROS 2 as MCAP and sqlite3, ROS 1, and an MCAP whose recorder was killed."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rosbags.rosbag1
import rosbags.rosbag2
from mcap.writer import Writer as McapWriter
from rosbags.typesys import Stores, get_typestore

from esam_rt.errors import InputError, MissingDependencyError
from esam_rt.sources.bags import SUFFIXES, Bag
from esam_rt.sources.ros_images import RosHeader

H, W = 24, 32
FRONT, LEFT, SMALL = "/front/image_raw", "/left/image/compressed", "/imu"
ROS2, ROS1 = get_typestore(Stores.ROS2_HUMBLE), get_typestore(Stores.ROS1_NOETIC)


def image(number: int) -> np.ndarray:
    pixels = np.full((H, W, 3), 40, np.uint8)
    pixels[:, number % W] = [250, 120, 10 + number]
    return pixels


def messages(types: Any, count: int, encoding: str = "bgr8") -> list[tuple[str, str, int, Any]]:
    """Topic, type, time of recording and message; stamps are 7 ms before the recording."""
    t = types.types
    found = []
    for number in range(count):
        stamp_ns = 1_700_000_000_123_456_789 + number * 50_000_000
        time = t["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
        fields = ([number] if types is ROS1 else []) + [time, "camera_front"]
        header = t["std_msgs/msg/Header"](*fields)
        rows = np.pad(image(number)[..., ::-1].reshape(H, -1), ((0, 0), (0, 4)))
        raw = t["sensor_msgs/msg/Image"](header, H, W, encoding, 0, W * 3 + 4, rows.ravel())
        png = np.asarray(cv2.imencode(".png", image(number)[..., ::-1])[1]).ravel()
        compressed = t["sensor_msgs/msg/CompressedImage"](header, "png", png)
        found.append((FRONT, "sensor_msgs/msg/Image", stamp_ns + 7_000_000, raw))
        found.append((LEFT, "sensor_msgs/msg/CompressedImage", stamp_ns + 7_000_001, compressed))
        found.append((SMALL, "std_msgs/msg/String", stamp_ns + 7_000_002, t["std_msgs/msg/String"]("x")))
    return found


def write_ros2(path: Path, plugin: str, encoding: str = "bgr8") -> Path:
    storage = rosbags.rosbag2.StoragePlugin[plugin]
    with rosbags.rosbag2.Writer(path, version=9, storage_plugin=storage) as bag:
        connections = {}
        for topic, kind, log_time_ns, message in messages(ROS2, 5, encoding):
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=ROS2)
            bag.write(connections[topic], log_time_ns, ROS2.serialize_cdr(message, kind))
    return path


def write_ros1(path: Path) -> Path:
    with rosbags.rosbag1.Writer(path) as bag:
        connections = {}
        for topic, kind, log_time_ns, message in messages(ROS1, 5):
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=ROS1)
            bag.write(connections[topic], log_time_ns, ROS1.serialize_ros1(message, kind))
    return path


def write_cut_off(path: Path, count: int = 60, share: float = 0.6) -> Path:
    """An MCAP of small chunks, without its end."""
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=20_000)
        writer.start(profile="ros2", library="test")
        channels = {}
        for topic, kind, log_time_ns, message in messages(ROS2, count):
            if topic not in channels:
                schema = writer.register_schema(kind, "ros2msg", ROS2.generate_msgdef(kind, ros_version=2)[0].encode())
                channels[topic] = writer.register_channel(topic, "cdr", schema)
            data = bytes(ROS2.serialize_cdr(message, kind))
            writer.add_message(channels[topic], log_time_ns, data, log_time_ns)
        writer.finish()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def make(tmp_path: Path, kind: str) -> Path:
    if kind == "bag":
        return write_ros1(tmp_path / "drive.bag")
    return write_ros2(tmp_path / "drive", kind)


@pytest.mark.parametrize("kind", ["MCAP", "SQLITE3", "bag"])
@pytest.mark.parametrize("topic", [FRONT, LEFT])
def test_images_and_headers_of_a_topic(tmp_path: Path, kind: str, topic: str) -> None:
    bag = Bag(make(tmp_path, kind), [topic])
    frames = list(bag)
    assert bag.length == len(frames) == 5 and not bag.is_live
    for number, frame in enumerate(frames):
        assert np.array_equal(frame.image_hwc_rgb, image(number))
        stamp_ns = 1_700_000_000_123_456_789 + number * 50_000_000
        assert frame.stamp_ns == stamp_ns and frame.frame_id == "camera_front"
        log_time_ns = stamp_ns + 7_000_000 + (topic == LEFT)
        assert frame.header == RosHeader(*divmod(stamp_ns, 10**9), "camera_front", topic, log_time_ns)
        assert frame.name == f"{topic[1:]}/{number:06}"


def test_several_topics_come_in_the_order_of_their_recording(tmp_path: Path) -> None:
    path = write_ros2(tmp_path / "drive", "MCAP")
    names = [frame.name for frame in Bag(path, [FRONT, LEFT])]
    assert names == [f"{topic[1:]}/{n:06}" for n in range(5) for topic in (FRONT, LEFT)]
    (single,) = path.glob("*.mcap")  # the file without its folder
    assert [frame.name for frame in Bag(single, [LEFT])] == [f"{LEFT[1:]}/{n:06}" for n in range(5)]


def test_a_topic_must_be_chosen(tmp_path: Path) -> None:
    path = write_ros2(tmp_path / "drive", "MCAP")
    with pytest.raises(InputError, match=r"several topics of images: /front/image_raw \(5\).*Choose with --topic"):
        Bag(path)
    with pytest.raises(InputError, match=r"no images of /rear; it holds /front/image_raw \(5\)"):
        Bag(path, ["/rear"])
    with pytest.raises(InputError, match="no images of /imu"):
        Bag(path, [SMALL])


def test_a_cut_off_mcap_gives_what_it_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_cut_off(tmp_path / "cut.mcap")
    bag = Bag(path, [FRONT])
    assert bag.length is None
    with caplog.at_level(logging.WARNING, logger="esam_rt"):
        frames = list(bag)
    assert 20 < len(frames) < 55
    assert all(np.array_equal(frame.image_hwc_rgb, image(number)) for number, frame in enumerate(frames))
    assert "is cut off or damaged after 17000000" in caplog.text


def test_messages_without_an_image_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_ros2(tmp_path / "drive", "MCAP", encoding="yuv444")
    with caplog.at_level(logging.WARNING, logger="esam_rt"):
        assert list(Bag(path, [FRONT])) == []
    assert "/front/image_raw: 5 messages were left out (found encoding 'yuv444'" in caplog.text


@pytest.mark.parametrize("suffix", [".mcap", ".db3", ".bag"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x89MCAP0\r\n" + bytes(500), b"#ROSBAG V2.0\n" + bytes(99)])
def test_what_is_no_bag_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"no{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"no{suffix}: .*(damaged|no images)"):
        Bag(path)
    with pytest.raises(InputError, match="there is no such bag"):
        Bag(tmp_path / "missing.mcap")


@pytest.mark.parametrize("kind", ["MCAP", "SQLITE3", "bag", "cut"])
def test_damaged_bags_end_with_an_error_or_a_warning(tmp_path: Path, kind: str) -> None:
    made = write_cut_off(tmp_path / "cut.mcap", 20) if kind == "cut" else make(tmp_path, kind)
    original = next(file for file in [made, *made.glob("*")] if file.suffix in SUFFIXES)
    data, rng = original.read_bytes(), np.random.default_rng(0)
    for number in range(40):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, len(damaged), rng.integers(1, 12))
        damaged[places] = rng.integers(0, 256, len(places))
        path = tmp_path / f"damaged{original.suffix}"
        path.write_bytes(damaged[: rng.integers(len(data)) if number % 5 == 0 else None].tobytes())
        with suppress(InputError):
            assert all(frame.image_hwc_rgb.shape[2] == 3 for frame in Bag(path, [FRONT]))


def test_without_the_packages_the_command_to_install_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rosbags", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[bags\]'"):
        Bag(tmp_path)
