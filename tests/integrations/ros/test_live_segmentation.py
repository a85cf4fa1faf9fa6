"""The logic of the ROS 2 node, without ROS: bytes of images in, bytes of messages out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from esam_rt.errors import DeviceError
from esam_rt.integrations.ros.live_segmentation import (
    DETECTIONS,
    ENTITIES,
    LABEL_INFO,
    OUTPUTS,
    OVERLAY,
    LiveSegmentation,
)
from esam_rt.integrations.ros.node_diagnostics import ERROR, OK, WARN, NodeReport, diagnostics
from esam_rt.integrations.ros.node_parameters import NodeParameters
from esam_rt.sinks import ros_messages
from tests.support.ros_scene import FRAME_ID, H, SquareSegmenter, W, image_message, picture, stamp_ns

GUARD_S = 60
TOPIC = "/front/image_raw"


class Listener:
    """Subscribers of some outputs."""

    def __init__(self, *wanted: str) -> None:
        self.wanted, self.got = wanted or tuple(OUTPUTS), [(name, b"") for name in ()]
        self._changed = threading.Condition()

    def is_wanted(self, name: str) -> bool:
        return name in self.wanted

    def publish(self, name: str, message: bytes) -> None:
        assert type(message) is bytes  # rclpy takes no memoryview
        with self._changed:
            self.got.append((name, message))
            self._changed.notify_all()

    def wait_for(self, name: str, count: int) -> list[Any]:
        """Wait until so many messages came, and read them with rosbags."""
        with self._changed:
            assert self._changed.wait_for(lambda: sum(n == name for n, _ in self.got) >= count, GUARD_S)
        return [ros_messages.types().deserialize_cdr(data, OUTPUTS[n]) for n, data in self.got if n == name]


class Live:
    """Starts nodes' logic, and closes it at the end of a test."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now_ns = stamp_ns(0)
        self.running: list[LiveSegmentation] = []

    def __call__(self, segmenter: Any, outputs: Any, **parameters: Any) -> LiveSegmentation:
        made = LiveSegmentation(
            segmenter, NodeParameters(**parameters), TOPIC, outputs, lambda: self.now_ns, self.log.append
        )
        self.running.append(made)
        return made


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live()
    yield made
    for one in made.running:
        one.close()


def reported(live: LiveSegmentation, is_enough: Callable[[NodeReport], bool]) -> NodeReport:
    for _ in range(100_000):
        report = live.report()
        if is_enough(report):
            return report
        threading.Event().wait(0.001)
    raise AssertionError(report)


def test_every_output_has_the_header_of_its_image(live: Live) -> None:
    outputs = Listener()
    node = live(SquareSegmenter(), outputs, policy="every")
    for number in range(4):
        node.receive(image_message(number))
        outputs.wait_for(OVERLAY, number + 1)
    (info,) = outputs.wait_for(LABEL_INFO, 1)
    assert [c.class_name for c in info.class_map] == ["entity"]
    for name in (ENTITIES, DETECTIONS, OVERLAY):
        for number, message in enumerate(outputs.wait_for(name, 4)):
            stamp = message.header.stamp
            assert stamp.sec * 10**9 + stamp.nanosec == stamp_ns(number)
            assert message.header.frame_id == FRAME_ID
    for number, message in enumerate(outputs.wait_for(ENTITIES, 4)):
        assert (message.encoding, message.height, message.width) == ("mono16", H, W)
        square = picture(number)[..., 0] > 200
        assert np.array_equal(message.data.view("<u2").reshape(H, W), np.where(square, 1, 2))
    ids = []
    for number, message in enumerate(outputs.wait_for(DETECTIONS, 4)):
        first = message.detections[0]
        assert (first.bbox.center.position.x, first.bbox.center.position.y) == (number + 5, 10)
        assert (first.bbox.size_x, first.bbox.size_y) == (10, 10)
        ids.append([d.id for d in message.detections])
    assert ids == [ids[0]] * 4 and len(set(ids[0])) == 2
    overlay = cv2.imdecode(outputs.wait_for(OVERLAY, 4)[0].data, cv2.IMREAD_COLOR)
    assert overlay.shape == (H, W, 3)


def test_what_nobody_subscribes_to_is_not_made(live: Live) -> None:
    outputs = Listener(DETECTIONS)
    node = live(SquareSegmenter(), outputs, track=False)
    node.receive(image_message(0))
    (message,) = outputs.wait_for(DETECTIONS, 1)
    assert [d.id for d in message.detections] == ["", ""]
    node.close()
    assert {name for name, _ in outputs.got} == {DETECTIONS, LABEL_INFO}


@pytest.mark.parametrize(("policy", "done"), [("latest", [0, 9]), ("every", [0, 5, 6, 7, 8, 9])])
def test_images_that_come_too_fast(live: Live, policy: str, done: list[int]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(number: int) -> None:
        begun.set()
        assert go_on.wait(GUARD_S)

    outputs = Listener()
    node = live(SquareSegmenter(wait), outputs, policy=policy, depth=5)
    node.receive(image_message(0))
    assert begun.wait(GUARD_S)  # image 0 is in work
    for number in range(1, 10):
        node.receive(image_message(number))
    go_on.set()
    found = outputs.wait_for(OVERLAY, len(done))
    assert [(m.header.stamp.nanosec - stamp_ns(0) % 10**9) // 50_000_000 for m in found] == done
    counts = reported(node, lambda r: r.counts["done"] == len(done)).counts
    assert counts["received"] == 10 and counts["dropped"] == 10 - len(done)


def test_unreadable_images_and_failures_are_reported_once_each(live: Live) -> None:
    def fail(number: int) -> None:
        if number < 3:
            raise DeviceError("The GPU is gone.")

    outputs = Listener()
    node = live(SquareSegmenter(fail), outputs, policy="every")
    node.receive(image_message(0, encoding="rgb565"))
    node.receive(b"\x00\x01\x00\x00nonsense")
    unreadable = reported(node, lambda r: r.counts["unreadable"] == 2)
    assert unreadable.level()[0] == ERROR
    for number in range(3):
        node.receive(image_message(number))
        reported(node, lambda r, n=number: r.counts["failed"] == n + 1)
    node.receive(image_message(3))
    outputs.wait_for(DETECTIONS, 1)
    assert len([line for line in live.log if line == "The GPU is gone."]) == 1
    assert any("rgb565" in line for line in live.log)


def test_a_disabled_node_leaves_images_out(live: Live) -> None:
    outputs = Listener()
    node = live(SquareSegmenter(), outputs, enable=False)
    node.receive(image_message(0))
    report = node.report()
    assert (report.counts["received"], report.counts["disabled"]) == (1, 1)
    assert report.level() == (OK, "disabled")
    node.enabled = True
    node.receive(image_message(1))
    assert outputs.wait_for(DETECTIONS, 1)[0].header.stamp.nanosec == stamp_ns(1) % 10**9


def test_ages_and_silence_are_of_the_node_s_clock(live: Live) -> None:
    outputs = Listener()

    def pass_time(number: int) -> None:
        live.now_ns += 250_000_000

    node = live(SquareSegmenter(pass_time), outputs)
    node.receive(image_message(0))
    report = reported(node, lambda r: "age_p95_s" in r.times_s)
    assert report.times_s["age_p50_s"] == report.times_s["age_p95_s"] == 0.25
    live.now_ns += 10_000_000_000
    level, reason = node.report().level()
    assert level == WARN and "no image for 10 s" in reason


def test_an_error_of_a_publisher_stops_the_work_and_is_told(live: Live) -> None:
    class Broken(Listener):
        def publish(self, name: str, message: bytes) -> None:
            raise RuntimeError("The context is gone.")

    node = live(SquareSegmenter(), Broken())
    node.receive(image_message(0))
    report = reported(node, lambda r: r.stopped)
    assert report.level() == (ERROR, "stopped: The context is gone.")


@pytest.mark.parametrize(
    ("news", "level"),
    [
        ({"done": 3}, OK),
        ({"done": 3, "incomplete": 1}, WARN),
        ({"done": 3, "failed": 1}, WARN),
        ({"unreadable": 1}, ERROR),
        ({}, OK),
    ],
)
def test_levels_follow_what_is_new(news: dict[str, int], level: int) -> None:
    report = NodeReport({"done": 3}, news, error="It broke.")
    assert report.level()[0] == level
    message = diagnostics(report, "/esam_rt", "tiny onnxruntime cpu", stamp_ns(0))
    data = ros_messages.serialized(message)
    (status,) = ros_messages.types().deserialize_cdr(data, "diagnostic_msgs/msg/DiagnosticArray").status
    assert (status.level, status.name, status.hardware_id) == (
        level,
        "/esam_rt: segmentation",
        "tiny onnxruntime cpu",
    )
    assert {v.key: v.value for v in status.values} == {"done": "3", "last_error": "It broke."}
