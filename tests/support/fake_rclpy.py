"""A stand-in for rclpy, as far as the node uses it. It is as strict: a wrong call is an error.

Messages are bytes. `Graph` is the network: it records what is published and brings images to subscriptions.
"""

from __future__ import annotations

import enum
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Graph:
    """Topics of all nodes of a test."""

    def __init__(self) -> None:
        self.published: dict[str, list[bytes]] = {}
        self.publishers: dict[str, Any] = {}
        self.subscriptions: dict[str, Any] = {}
        self.listeners: set[str] = set()  # topics that somebody else subscribes to
        self.services: dict[str, Callable[..., Any]] = {}
        self.timers: list[Any] = []
        self.now_ns = 1_700_000_000_000_000_000
        self.log: list[str] = []
        self.spin: Callable[[Any], None] = lambda node: None
        self.is_running = False
        self._changed = threading.Condition()

    def add(self, topic: str, message: bytes) -> None:
        with self._changed:
            self.published.setdefault(topic, []).append(message)
            self._changed.notify_all()

    def wait_for(self, topic: str, count: int) -> list[bytes]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.published.get(topic, [])) >= count, 60), self.log
            return list(self.published[topic])


class TransitionCallbackReturn(enum.Enum):
    SUCCESS, FAILURE, ERROR = range(3)


class DurabilityPolicy(enum.Enum):
    VOLATILE, TRANSIENT_LOCAL = range(2)


class ReliabilityPolicy(enum.Enum):
    RELIABLE, BEST_EFFORT = range(2)


class QoSProfile(SimpleNamespace):
    def __init__(self, *, depth: int, **policies: Any) -> None:
        assert policies.keys() <= {"durability", "reliability"}
        super().__init__(**{"depth": depth, "durability": DurabilityPolicy.VOLATILE,
                            "reliability": ReliabilityPolicy.RELIABLE, **policies})  # fmt: skip


class QoSOverridingOptions:
    @classmethod
    def with_default_policies(cls) -> QoSOverridingOptions:
        return cls()


class Parameter:
    def __init__(self, name: str, *, value: Any) -> None:
        self.name, self.value = name, value


class SetParametersResult:
    def __init__(self, *, successful: bool = False, reason: str = "") -> None:
        self.successful, self.reason = successful, reason


class ExternalShutdownException(Exception):  # noqa: N818 - rclpy's name
    """The context was shut down from outside."""


class Publisher:
    def __init__(self, graph: Graph, kind: type, topic: str, qos: Any, managed: bool) -> None:
        assert isinstance(qos, (int, QoSProfile))
        self.graph, self.kind, self.topic, self.qos = graph, kind, topic, qos
        self.is_enabled = not managed
        graph.publishers[topic] = self

    def publish(self, message: Any) -> None:
        if not isinstance(message, (bytes, self.kind)):
            raise TypeError(f"Expected {self.kind}, got {type(message)}")
        if self.is_enabled:
            assert isinstance(message, bytes)
            self.graph.add(self.topic, message)

    def get_subscription_count(self) -> int:
        return int(self.topic in self.graph.listeners)


def _node_class(graph: Graph) -> type:
    class LifecycleNode:
        def __init__(self, name: str, *, automatically_declare_parameters_from_overrides: bool = False,
                     parameter_overrides: list[Parameter] | None = None) -> None:  # fmt: skip
            assert graph.is_running
            self._name, self.state = name, "unconfigured"
            self._overrides = {p.name: p for p in parameter_overrides or []}
            self._parameters = {"use_sim_time": Parameter("use_sim_time", value=False)}
            if automatically_declare_parameters_from_overrides:
                self._parameters |= self._overrides
            self._checks: list[Callable[[list[Parameter]], SetParametersResult]] = []
            self._managed: list[Publisher] = []

        def has_parameter(self, name: str) -> bool:
            return name in self._parameters

        def declare_parameter(self, name: str, value: Any) -> Parameter:
            assert name not in self._parameters
            assert isinstance(value, (bool, int, float, str, list)) and value != []  # as ROS has them
            self._parameters[name] = self._overrides.get(name, Parameter(name, value=value))
            return self._parameters[name]

        def get_parameter(self, name: str) -> Parameter:
            return self._parameters[name]

        def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
            return {n: p for n, p in self._parameters.items() if not prefix or n.startswith(prefix + ".")}

        def set_parameters(self, parameters: list[Parameter]) -> list[SetParametersResult]:
            results = []
            for parameter in parameters:
                answers = [check([parameter]) for check in self._checks]
                refused = [answer for answer in answers if not answer.successful]
                if not refused:
                    self._parameters[parameter.name] = parameter
                results.append(refused[0] if refused else SetParametersResult(successful=True))
            return results

        def add_on_set_parameters_callback(self, check: Callable[..., SetParametersResult]) -> None:
            self._checks.insert(0, check)

        def create_publisher(self, kind: type, topic: str, qos: Any) -> Publisher:
            return Publisher(graph, kind, self.resolve_topic_name(topic), qos, managed=False)

        def create_lifecycle_publisher(
            self, kind: type, topic: str, qos: Any, *, qos_overriding_options: QoSOverridingOptions
        ) -> Publisher:
            publisher = Publisher(graph, kind, self.resolve_topic_name(topic), qos, managed=True)
            self._managed.append(publisher)
            return publisher

        def destroy_lifecycle_publisher(self, publisher: Publisher) -> bool:
            self._managed.remove(publisher)
            del graph.publishers[publisher.topic]
            return True

        def create_subscription(
            self, kind: type, topic: str, callback: Callable[[bytes], None], qos: Any, *, raw: bool,
            qos_overriding_options: QoSOverridingOptions,
        ) -> Any:  # fmt: skip
            assert raw
            made = SimpleNamespace(kind=kind, topic=self.resolve_topic_name(topic), callback=callback, qos=qos)
            graph.subscriptions[made.topic] = made
            return made

        def destroy_subscription(self, subscription: Any) -> bool:
            del graph.subscriptions[subscription.topic]
            return True

        def create_service(self, kind: type, name: str, callback: Callable[..., Any]) -> None:
            graph.services[self.resolve_topic_name(name)] = callback

        def create_timer(self, period_s: float, callback: Callable[[], None]) -> Any:
            graph.timers.append(callback)
            return callback

        def destroy_timer(self, timer: Any) -> bool:
            graph.timers.remove(timer)
            return True

        def destroy_node(self) -> None:
            graph.log.append("destroyed")

        def resolve_topic_name(self, name: str) -> str:
            if name.startswith("/"):
                return name
            return f"/{self._name}/{name[2:]}" if name.startswith("~/") else f"/{name}"

        def get_fully_qualified_name(self) -> str:
            return f"/{self._name}"

        def get_clock(self) -> Any:
            return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=graph.now_ns))

        def get_logger(self) -> Any:
            return SimpleNamespace(info=graph.log.append, error=lambda line: graph.log.append(f"ERROR {line}"))

        def on_configure(self, state: Any) -> TransitionCallbackReturn:
            return TransitionCallbackReturn.SUCCESS

        on_cleanup = on_shutdown = on_error = on_configure

        def on_activate(self, state: Any) -> TransitionCallbackReturn:
            for publisher in self._managed:
                publisher.is_enabled = True
            return TransitionCallbackReturn.SUCCESS

        def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
            for publisher in self._managed:
                publisher.is_enabled = False
            return TransitionCallbackReturn.SUCCESS

        def _change(self, callback: str, before: str, after: str) -> TransitionCallbackReturn:
            assert self.state == before
            try:
                result = getattr(self, callback)(SimpleNamespace(label=before))
            except Exception:  # as rclpy does, without a word
                result = TransitionCallbackReturn.ERROR
            assert isinstance(result, TransitionCallbackReturn)
            if result is TransitionCallbackReturn.SUCCESS:
                self.state = after
            elif result is TransitionCallbackReturn.ERROR:
                self.state = "unconfigured" if self.on_error(None) is TransitionCallbackReturn.SUCCESS else "finalized"
            return result

        def trigger_configure(self) -> TransitionCallbackReturn:
            return self._change("on_configure", "unconfigured", "inactive")

        def trigger_activate(self) -> TransitionCallbackReturn:
            return self._change("on_activate", "inactive", "active")

        def trigger_deactivate(self) -> TransitionCallbackReturn:
            return self._change("on_deactivate", "active", "inactive")

        def trigger_cleanup(self) -> TransitionCallbackReturn:
            return self._change("on_cleanup", "inactive", "unconfigured")

        def trigger_shutdown(self) -> TransitionCallbackReturn:
            return self._change("on_shutdown", self.state, "finalized")

    return LifecycleNode


MESSAGES = {
    "sensor_msgs": ("Image", "CompressedImage"),
    "vision_msgs": ("Detection2DArray", "LabelInfo"),
    "diagnostic_msgs": ("DiagnosticArray",),
}


def install(patch: pytest.MonkeyPatch) -> Graph:
    """Put the stand-in, and packages of messages, in the place of rclpy."""
    graph = Graph()

    def module(name: str, **members: Any) -> None:
        made = ModuleType(name)
        vars(made).update(members)
        patch.setitem(sys.modules, name, made)

    def start(args: Any = None) -> None:
        graph.is_running = True

    def stop() -> None:
        graph.is_running = False

    module("rclpy", init=start, try_shutdown=stop, Parameter=Parameter, spin=lambda node: graph.spin(node))
    module("rclpy.executors", ExternalShutdownException=ExternalShutdownException)
    module("rclpy.lifecycle", LifecycleNode=_node_class(graph), TransitionCallbackReturn=TransitionCallbackReturn)
    module("rclpy.qos", DurabilityPolicy=DurabilityPolicy, QoSProfile=QoSProfile, ReliabilityPolicy=ReliabilityPolicy)
    module("rclpy.qos_overriding_options", QoSOverridingOptions=QoSOverridingOptions)
    module("rcl_interfaces")
    module("rcl_interfaces.msg", SetParametersResult=SetParametersResult)
    module("std_srvs")
    module("std_srvs.srv", SetBool=type("SetBool", (), {}))
    for package, names in MESSAGES.items():
        module(package)
        module(f"{package}.msg", **{name: type(name, (), {}) for name in names})
    return graph
