"""The lifecycle node with a stand-in for rclpy."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from esam_rt.errors import ModelError
from esam_rt.segmenter import SegmenterConfig
from esam_rt.sinks import ros_messages
from tests.support import fake_rclpy
from tests.support.fake_rclpy import DurabilityPolicy, Graph, Parameter, ReliabilityPolicy, TransitionCallbackReturn
from tests.support.ros_scene import H, SquareSegmenter, W, image_message

OUT = "/esam_rt/"
MODULE = "esam_rt.integrations.ros.entity_node"


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    made = fake_rclpy.install(monkeypatch)
    made.is_running = True
    return made


@pytest.fixture
def segmenters(monkeypatch: pytest.MonkeyPatch) -> list[SquareSegmenter]:
    """Segmenters that nodes have opened."""
    made: list[SquareSegmenter] = []

    def opened(config: SegmenterConfig, on_event: Any) -> SquareSegmenter:
        made.append(SquareSegmenter())
        return made[-1]

    monkeypatch.setattr(SegmenterConfig, "open", opened)
    return made


@pytest.fixture
def module(graph: Graph, segmenters: list[SquareSegmenter]) -> Iterator[ModuleType]:
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


def read(kind: str, message: bytes) -> Any:
    return ros_messages.types().deserialize_cdr(message, kind)


def test_nothing_else_of_the_package_imports_rclpy() -> None:
    for name in ("live_segmentation", "node_diagnostics", "node_parameters", "image_topic"):
        importlib.import_module(f"esam_rt.integrations.ros.{name}")
    assert "rclpy" not in sys.modules


def test_a_life(module: ModuleType, graph: Graph, segmenters: list[SquareSegmenter]) -> None:
    node = module.EntityNode(parameter_overrides=[Parameter("settings.emr.delta", value=0.1)])
    assert graph.publishers.keys() == {"/diagnostics"} and not graph.subscriptions
    assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    topics = {OUT + name for name in ("entities", "detections", "label_info", "overlay/compressed")}
    assert graph.publishers.keys() == {"/diagnostics", *topics} and not graph.subscriptions
    assert graph.publishers[OUT + "label_info"].qos.durability is DurabilityPolicy.TRANSIENT_LOCAL
    assert graph.publishers[OUT + "entities"].qos.reliability is ReliabilityPolicy.RELIABLE

    assert node.trigger_activate() is TransitionCallbackReturn.SUCCESS
    subscription = graph.subscriptions["/image"]
    assert subscription.qos.reliability is ReliabilityPolicy.BEST_EFFORT
    assert subscription.kind is sys.modules["sensor_msgs.msg"].Image
    graph.listeners |= {OUT + "entities", OUT + "detections"}
    subscription.callback(image_message(3))
    (ids,) = graph.wait_for(OUT + "entities", 1)
    assert np.bincount(read(ros_messages.IMAGE, ids).data.view("<u2")).tolist() == [0, 100, H * W - 100]
    (found,) = graph.wait_for(OUT + "detections", 1)
    assert len(read(ros_messages.DETECTIONS, found).detections) == 2
    for timer in graph.timers:
        timer()
    (status,) = read("diagnostic_msgs/msg/DiagnosticArray", graph.wait_for("/diagnostics", 1)[0]).status
    assert (status.level, status.message) == (0, "segmenting")
    assert (status.name, status.hardware_id) == ("/esam_rt: segmentation", "square none cpu")

    assert node.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
    assert not graph.subscriptions and not segmenters[0].closed.is_set()
    node.trigger_activate()
    node.trigger_deactivate()
    assert node.trigger_cleanup() is TransitionCallbackReturn.SUCCESS
    assert graph.publishers.keys() == {"/diagnostics"} and not graph.timers and segmenters[0].closed.is_set()
    node.trigger_configure()
    node.trigger_activate()
    assert node.trigger_shutdown() is TransitionCallbackReturn.SUCCESS
    assert all(one.closed.is_set() for one in segmenters) and not graph.subscriptions


def test_compressed_images(module: ModuleType, graph: Graph) -> None:
    node = module.EntityNode(
        parameter_overrides=[
            Parameter("image_transport", value="compressed"),
            Parameter("publish_overlay", value=False),
        ]
    )
    node.trigger_configure()
    node.trigger_activate()
    assert graph.subscriptions["/image/compressed"].kind is sys.modules["sensor_msgs.msg"].CompressedImage
    assert OUT + "overlay/compressed" not in graph.publishers
    node.release()


def test_the_service_enables_and_disables(module: ModuleType, graph: Graph) -> None:
    node = module.EntityNode(parameter_overrides=[Parameter("enable", value=False)])
    node.trigger_configure()
    node.trigger_activate()
    receive = graph.subscriptions["/image"].callback
    receive(image_message(0))
    enable = graph.services[OUT + "enable"]
    answer = enable(SimpleNamespace(data=True), SimpleNamespace())
    assert (answer.success, answer.message) == (True, "")
    graph.listeners.add(OUT + "detections")
    receive(image_message(1))
    graph.wait_for(OUT + "detections", 1)
    enable(SimpleNamespace(data=False), SimpleNamespace())
    node.trigger_deactivate()
    node.trigger_activate()  # it stays disabled
    graph.subscriptions["/image"].callback(image_message(2))
    node.release()
    assert len(graph.published[OUT + "detections"]) == 1


def test_a_parameter_of_a_configured_node_cannot_change(module: ModuleType, graph: Graph) -> None:
    node = module.EntityNode()
    (before,) = node.set_parameters([Parameter("model", value="vit_b")])
    assert before.successful
    node.trigger_configure()
    (after,) = node.set_parameters([Parameter("model", value="tiny")])
    assert not after.successful and "Clean it up" in after.reason
    assert node.get_parameter("model").value == "vit_b"
    node.release()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (Parameter("policies", value="every"), "SettingsError: Unknown parameter 'policies'"),
        (Parameter("settings.emr.delta", value=7.0), "SettingsError: .*emr.delta"),
    ],
)
def test_a_configuration_that_fails_says_why(
    module: ModuleType, graph: Graph, override: Parameter, message: str
) -> None:
    node = module.EntityNode(parameter_overrides=[override])
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert node.state == "unconfigured"
    assert re.search(message, graph.log[-1])


def test_a_missing_package_of_messages_is_named(
    module: ModuleType, graph: Graph, segmenters: list[SquareSegmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = module.EntityNode()
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", None)
    assert node.trigger_configure() is TransitionCallbackReturn.FAILURE
    assert "vision_msgs" in graph.log[-1]
    assert segmenters[0].closed.is_set() and graph.publishers.keys() == {"/diagnostics"}


def test_build_only_ends_after_the_engines(
    module: ModuleType, graph: Graph, segmenters: list[SquareSegmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.NodeParameters, "defaults", lambda own=module.NodeParameters.defaults: {
        **own(), "build_only": True})  # fmt: skip
    assert module.main([]) == 0
    assert "The engines are built." in graph.log and graph.log[-1] == "destroyed"
    assert segmenters[0].closed.is_set() and not graph.subscriptions and not graph.is_running


def test_main_starts_and_stops(
    module: ModuleType, graph: Graph, segmenters: list[SquareSegmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.NodeParameters, "defaults", lambda own=module.NodeParameters.defaults: {
        **own(), "autostart": True})  # fmt: skip
    states = []

    def spin(node: Any) -> None:
        states.append(node.state)
        raise KeyboardInterrupt

    graph.spin = spin
    assert module.main([]) == 0
    assert states == ["active"] and segmenters[0].closed.is_set()

    def broken(config: SegmenterConfig, on_event: Any) -> None:
        raise ModelError("Model vit_b: the file is missing.")

    monkeypatch.setattr(SegmenterConfig, "open", broken)
    assert module.main([]) == 1
    assert "ERROR ModelError: Model vit_b: the file is missing." in graph.log and states == ["active"]
