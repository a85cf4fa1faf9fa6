"""McapFile: read back by rosbags and mcap, also when the writer was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError
from esam_rt.sinks import ros_messages
from esam_rt.sinks.mcap_file import McapFile
from esam_rt.sources.bags import Bag
from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosHeader
from tests.sources.test_bags import FRONT, LEFT, SMALL, write_cut_off, write_ros2

H, W = 30, 40
TOPIC = "/camera/front/image_raw"


def scene(number: int) -> EntityMap:
    labels = np.zeros((H, W), int)
    labels[5:15, number : number + 10] = 1
    labels[20:, 25:] = 2
    return EntityMap.from_labels(labels, np.array([0.75, 0.5]), np.zeros(2, int))


def frame(number: int, with_header: bool = True, topic: str = TOPIC) -> Frame:
    image = np.full((H, W, 3), 90, np.uint8)
    stamp_ns = 1_700_000_000_000_000_000 + number * 100_000_000 + 5
    header = RosHeader(*divmod(stamp_ns, 10**9), "camera_front", topic, stamp_ns + 9) if with_header else None
    return Frame(image, f"camera/{number:06}", stamp_ns, "camera_front", header)


def read(path: Path) -> dict[str, list[tuple[int, Any]]]:
    found: dict[str, list[tuple[int, Any]]] = {}
    with AnyReader([path]) as reader:
        for connection, time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
    return found


def test_messages_have_the_image_s_header_and_time(tmp_path: Path) -> None:
    with McapFile(tmp_path) as sink:
        for number in range(4):
            sink.write(frame(number), scene(number))
    found = read(tmp_path / "entities.mcap")
    assert {topic: len(messages) for topic, messages in found.items()} == {
        "/camera/front/esam/label_info": 1,
        "/camera/front/esam/entities": 4,
        "/camera/front/esam/detections": 4,
        "/camera/front/esam/overlay/compressed": 4,
    }
    for topic, messages in found.items():
        for number, (time_ns, message) in enumerate(messages):
            own = frame(number).header
            assert time_ns == own.log_time_ns, topic
            assert (message.header.stamp.sec, message.header.stamp.nanosec) == (own.sec, own.nanosec)
            assert message.header.frame_id == "camera_front"
    for number in range(4):
        entities = scene(number)
        _, image = found["/camera/front/esam/entities"][number]
        assert (image.encoding, image.height, image.width, image.step) == ("mono16", H, W, 2 * W)
        assert np.array_equal(image.data.view("<u2").reshape(H, W), entities.labels)
        _, array = found["/camera/front/esam/detections"][number]
        for i, one in enumerate(array.detections):
            x0, y0, x1, y1 = entities.box_xyxy[i]
            assert (one.bbox.center.position.x, one.bbox.center.position.y) == ((x0 + x1) / 2, (y0 + y1) / 2)
            assert (one.bbox.size_x, one.bbox.size_y) == (x1 - x0, y1 - y0)
            assert one.results[0].hypothesis.class_id == "entity"
            assert one.results[0].hypothesis.score == entities.score[i]
        _, overlay = found["/camera/front/esam/overlay/compressed"][number]
        assert cv2.imdecode(overlay.data, cv2.IMREAD_COLOR).shape == (H, W, 3)
    (_, info) = found["/camera/front/esam/label_info"][0]
    assert [c.class_name for c in info.class_map] == ["entity"]


@pytest.mark.parametrize(
    ("topics", "places"),
    [
        (["/front/image_raw", "/left/image_rect/compressed", "/image"], ["/front", "/left", ""]),
        (["/camera/left", "/camera/right/compressed"], ["/camera/left", "/camera/right"]),
        (["/front/image_raw", "/front/image_rect"], ["/front", "/front/image_rect"]),
        (["/front/image", "/front/image/compressed"], ["/front", "/front/image"]),
        (["/front", "/front/compressed", "/front/image"], ["/front", "/front/compressed", "/front/image"]),
        (["/front/image", "/front"], ["/front", "/front_2"]),
    ],
)
def test_each_camera_has_topics_of_its_own(tmp_path: Path, topics: list[str], places: list[str]) -> None:
    with McapFile(tmp_path, overlay=False) as sink:
        for number in range(2):
            for topic in topics:
                sink.write(frame(number, topic=topic), scene(number))
    found = read(tmp_path / "entities.mcap")
    assert {topic: len(messages) for topic, messages in found.items()} == {
        f"{place}/esam/{one}": count
        for place in places
        for one, count in (("label_info", 1), ("entities", 2), ("detections", 2))
    }


def test_the_bag_of_results_is_a_bag(tmp_path: Path) -> None:
    with McapFile(tmp_path) as sink:
        for number in range(3):
            sink.write(frame(number, with_header=False), scene(number))
    frames = list(Bag(tmp_path / "entities.mcap", ["/esam/overlay/compressed"]))
    assert [one.stamp_ns for one in frames] == [frame(number).stamp_ns for number in range(3)]
    with (tmp_path / "entities.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None and {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
    latched = [c for c in summary.channels.values() if "durability: 1" in c.metadata.get("offered_qos_profiles", "")]
    assert [channel.topic for channel in latched] == ["/esam/label_info"]


def test_ids_as_png(tmp_path: Path) -> None:
    with McapFile(tmp_path, png=True, overlay=False) as sink:
        sink.write(frame(0), scene(0))
    ((_, message),) = read(tmp_path / "entities.mcap")["/camera/front/esam/entities/compressed"]
    assert np.array_equal(cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED), scene(0).labels)


def recorded(path: Path) -> list[tuple[Any, ...]]:
    """All messages of an MCAP with what the file says of their topics."""
    with path.open("rb") as file:
        return [
            (c.topic, c.message_encoding, tuple(c.metadata.items()), s.name, s.encoding, s.data,
             m.log_time, m.publish_time, m.sequence, m.data)
            for s, c, m in make_reader(file).iter_messages()
        ]  # fmt: skip


@pytest.mark.parametrize("topics", [["all"], [SMALL], [SMALL, LEFT]])
def test_other_topics_are_copied_to_the_byte(tmp_path: Path, topics: list[str]) -> None:
    folder = write_ros2(tmp_path / "drive", "MCAP")
    (source,) = folder.glob("*.mcap")
    for bag in (source, folder):
        with McapFile(tmp_path / "out", copy_topics=topics, overlay=False) as sink:
            for one in Bag(bag, [FRONT]):
                sink.write(one, scene(0))
        copied = {SMALL} if topics == ["all"] else set(topics)
        found = recorded(tmp_path / "out" / "entities.mcap")
        assert [m for m in found if m[0] in copied] == [m for m in recorded(source) if m[0] in copied]
        assert {m[0] for m in found if "esam" not in m[0]} == copied
        times = [m[6] for m in found]
        assert times == sorted(times)


def test_topics_of_sqlite_are_copied(tmp_path: Path) -> None:
    bag = write_ros2(tmp_path / "drive", "SQLITE3")
    with McapFile(tmp_path, copy_topics=["all"], overlay=False) as sink:
        for one in Bag(bag, [FRONT]):
            sink.write(one, scene(0))
    with AnyReader([bag]) as before, AnyReader([tmp_path / "entities.mcap"]) as after:
        sent, found = (
            [(c.msgtype, time_ns, bytes(data)) for c, time_ns, data in reader.messages() if c.topic == SMALL]
            for reader in (before, after)
        )
    assert found == sent and len(found) == 5


def test_the_copy_ends_at_an_image_that_was_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (source,) = write_ros2(tmp_path / "drive", "MCAP").glob("*.mcap")
    with McapFile(tmp_path, copy_topics=[SMALL, "/gps"], overlay=False) as sink:
        for one in list(Bag(source, [FRONT]))[:2]:
            sink.write(one, scene(0))
    found = [m for m in recorded(tmp_path / "entities.mcap") if m[0] == SMALL]
    assert found == [m for m in recorded(source) if m[0] == SMALL][:2]
    assert "found no messages of /gps to copy" in caplog.text


def test_a_cut_off_bag_is_copied_as_far_as_it_goes(tmp_path: Path) -> None:
    source = write_cut_off(tmp_path / "cut.mcap")
    with McapFile(tmp_path, copy_topics=["all"], overlay=False) as sink:
        frames = list(Bag(source, [FRONT]))
        for one in frames:
            sink.write(one, scene(0))
    found = [m for m in recorded(tmp_path / "entities.mcap") if m[0] == SMALL]
    assert len(frames) - 1 <= len(found) <= len(frames) and len(found) > 10


def test_a_killed_writer_leaves_its_whole_chunks(tmp_path: Path) -> None:
    code = f"""
import os, signal
import numpy as np
from esam_rt.entity_map import EntityMap
from esam_rt.sources.frame import Frame
from tests.sinks.test_mcap_file import McapFile
sink = McapFile({str(tmp_path)!r}, overlay=False).__enter__()
labels = np.random.default_rng(0).integers(0, 2, (600, 800))
entities = EntityMap.from_labels(labels, np.ones(1), np.zeros(1, int))
for number in range(9):
    sink.write(Frame(np.zeros((600, 800, 3), np.uint8), str(number), number * 1000), entities)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    images = list(Bag(tmp_path / "entities.mcap", ["/esam/entities"], (0, 1)))
    assert 7 <= len(images) <= 9


def test_a_run_without_frames_makes_no_file(tmp_path: Path) -> None:
    with McapFile(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_the_command_to_install_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ros_messages.types.cache_clear()
    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[bags\]'"):
        McapFile(tmp_path)
