"""The lifecycle node. It needs ROS 2: rclpy, sensor_msgs, vision_msgs, diagnostic_msgs and std_srvs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_srvs.srv import SetBool

from esam_rt.integrations.ros.live_segmentation import LABEL_INFO, OUTPUTS, OVERLAY, LiveSegmentation
from esam_rt.integrations.ros.node_diagnostics import DIAGNOSTICS, diagnostics
from esam_rt.integrations.ros.node_parameters import NodeParameters
from esam_rt.segmenter import EntitySegmenter
from esam_rt.sinks import ros_messages

NAME = "esam_rt"
REPORT_S = 1.0
DEPTH = 5  # of each topic's queue
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Publishers:
    """The publishers of the node, by name of the output.

    Args:
        node: The node.
        names: Some of ``OUTPUTS``.
    """

    def __init__(self, node: LifecycleNode, names: Sequence[str]) -> None:
        self._node = node
        classes = {name: _message_class(OUTPUTS[name]) for name in names}  # a missing package is an error first
        self._by_name = {name: self._made(name, kind) for name, kind in classes.items()}

    def is_wanted(self, name: str) -> bool:
        """Tell if anybody subscribes to an output.

        Args:
            name: One of ``OUTPUTS``.
        """
        return name in self._by_name and self._by_name[name].get_subscription_count() > 0

    def publish(self, name: str, message: bytes) -> None:
        """Publish a message. Bytes avoid rclpy's conversion of each byte of an image.

        Args:
            name: One of ``OUTPUTS``.
            message: The message in CDR.
        """
        self._by_name[name].publish(message)

    def destroy(self) -> None:
        """Take the topics back."""
        for publisher in self._by_name.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _made(self, name: str, kind: type) -> Any:
        qos = QoSProfile(depth=DEPTH)  # REP 2003: publishers have the default
        if name == LABEL_INFO:
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return self._node.create_lifecycle_publisher(kind, f"~/{name}", qos, qos_overriding_options=_overrides())


def _logged(transition: Callable[..., Any]) -> Callable[..., Any]:
    """Log why a transition fails, and undo it. rclpy does not tell the reason of an exception."""

    @functools.wraps(transition)
    def logged(node: EntityNode, state: Any) -> Any:
        try:
            return transition(node, state)
        except Exception as e:
            node.get_logger().error(f"{type(e).__name__}: {e}")
            node.undo(transition.__name__)
            return FAILURE

    return logged


class EntityNode(LifecycleNode):  # type: ignore[misc]  # rclpy has no types here
    """Segments the images of the topic ``image``. Topics, services and parameters are in docs/howto/ros.md."""

    def __init__(self, **options: Any) -> None:
        super().__init__(NAME, automatically_declare_parameters_from_overrides=True, **options)
        for name, value in NodeParameters.defaults().items():
            if not self.has_parameter(name):
                self.declare_parameter(name, value)
        self._configured = NodeParameters()
        self._segmenter: EntitySegmenter | None = None
        self._outputs: Publishers | None = None
        self._live: LiveSegmentation | None = None
        self._images: Any = None  # the subscription
        self._report_timer: Any = None
        self._diagnostics = self.create_publisher(_message_class(DIAGNOSTICS), "/diagnostics", DEPTH)
        self.create_service(SetBool, "~/enable", self._enable)
        self.add_on_set_parameters_callback(self._check_parameters)

    @_logged
    def on_configure(self, state: Any) -> Any:
        """Load the model, build its engines, make the first call, and offer the topics."""
        values = {name: p.value for name, p in self.get_parameters_by_prefix("").items()}
        p = self._configured = NodeParameters.of(values)
        ros_messages.types()
        self._segmenter = p.segmenter_config().open(lambda event: self.get_logger().info(str(event)))
        self._segmenter.warm_up([p.warm_up_hw])
        self._outputs = Publishers(self, [name for name in OUTPUTS if name != OVERLAY or p.publish_overlay])
        self._report_timer = self.create_timer(REPORT_S, self._report)
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: Any) -> Any:
        """Subscribe to the images."""
        done = super().on_activate(state)
        is_raw = self._configured.image_transport == "raw"
        topic = "image" if is_raw else "image/compressed"
        now_ns, log = (lambda: self.get_clock().now().nanoseconds), self.get_logger().error
        assert self._segmenter is not None and self._outputs is not None  # on_configure succeeded
        self._live = LiveSegmentation(
            self._segmenter, self._configured, self.resolve_topic_name(topic), self._outputs, now_ns, log
        )
        self._live.enabled = self.get_parameter("enable").value
        self._images = self.create_subscription(
            _message_class(ros_messages.IMAGE if is_raw else ros_messages.COMPRESSED),
            topic,
            self._live.receive,
            QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT),  # REP 2003: sensor data
            raw=True,
            qos_overriding_options=_overrides(),
        )
        return done

    def on_deactivate(self, state: Any) -> Any:
        """Unsubscribe. Identities begin anew with the next activation."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> Any:
        """Release the model."""
        self.release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: Any) -> Any:
        """Release everything."""
        self.release()
        return super().on_shutdown(state)

    def on_error(self, state: Any) -> Any:
        """Release everything, so that the node can be configured again."""
        self.release()
        return super().on_error(state)

    def undo(self, transition: str) -> None:
        """Undo a failed transition.

        Args:
            transition: ``on_configure`` or ``on_activate``.
        """
        if transition == "on_activate":
            self._stop()
        else:
            self.release()

    def release(self) -> None:
        """Stop, take the topics back and close the model. A second call does nothing."""
        self._stop()
        if self._report_timer is not None:
            self.destroy_timer(self._report_timer)
            self._report_timer = None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None

    def _stop(self) -> None:
        if self._images is not None:
            self.destroy_subscription(self._images)
            self._images = None
        if self._live is not None:
            self._live.close()
            self._live = None

    def _report(self) -> None:
        if self._live is not None and self._segmenter is not None:
            hardware = " ".join(str(self._segmenter.model_info()[key]) for key in ("name", "backend", "device"))
            time_ns = self.get_clock().now().nanoseconds
            message = diagnostics(self._live.report(), self.get_fully_qualified_name(), hardware, time_ns)
            self._diagnostics.publish(ros_messages.serialized(message))

    def _enable(self, request: Any, response: Any) -> Any:
        (result,) = self.set_parameters([rclpy.Parameter("enable", value=bool(request.data))])
        response.success, response.message = result.successful, result.reason
        return response

    def _check_parameters(self, parameters: Sequence[Any]) -> Any:
        """Take ``enable`` at once. All others are read by the next configuration."""
        late = [p.name for p in parameters if p.name != "enable" and self._segmenter is not None]
        late = [name for name in late if name in NodeParameters.defaults() or name.startswith("settings.")]
        if late:
            reason = (
                f"{', '.join(late)}: the node is configured. Clean it up, set the parameter, and configure it again."
            )
            return SetParametersResult(successful=False, reason=reason)
        for parameter in parameters:
            if parameter.name == "enable" and self._live is not None:
                self._live.enabled = parameter.value
        return SetParametersResult(successful=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is shut down.

    Args:
        args: Arguments of ROS. Default: those of the program.

    Returns:
        0, or 1 if the node cannot be configured.
    """
    rclpy.init(args=args)
    node = EntityNode()
    try:
        start = node.get_parameter("autostart").value or node.get_parameter("build_only").value
        if start and node.trigger_configure() != SUCCESS:
            return 1
        if node.get_parameter("build_only").value:
            node.get_logger().info("The engines are built.")
            return 0
        if start and node.trigger_activate() != SUCCESS:
            return 1
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.release()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _message_class(kind: str) -> Any:
    package, _, name = kind.partition("/msg/")
    return getattr(import_module(f"{package}.msg"), name)


def _overrides() -> Any:
    """History, depth and reliability can be set by parameters ``qos_overrides.*``."""
    return QoSOverridingOptions.with_default_policies()
