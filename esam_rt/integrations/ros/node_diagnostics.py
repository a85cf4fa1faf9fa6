"""The node's ``diagnostic_msgs/DiagnosticArray``: is it healthy, and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esam_rt.sinks import ros_messages

DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
OK, WARN, ERROR = 0, 1, 2
SILENCE_S = 3.0  # without an image, a camera counts as lost


@dataclass(frozen=True)
class NodeReport:
    """Figures of the node.

    Attributes:
        counts: Number of images since activation: received, done, failed, unreadable, dropped, disabled, incomplete.
        news: The same since the last report.
        times_s: Seconds, such as ``age_p95_s``. Times that are unknown are left out.
        silence_s: Seconds since the last image, or since activation.
        enabled: Images are segmented.
        error: The last error, or empty.
        stopped: The error ended the work.
    """

    counts: Mapping[str, int]
    news: Mapping[str, int]
    times_s: Mapping[str, float] = field(default_factory=dict)
    silence_s: float = 0.0
    enabled: bool = True
    error: str = ""
    stopped: bool = False

    def level(self) -> tuple[int, str]:
        """Return the level and its reason: an error, a lost camera, failed images, and cut work come in this order."""
        failed = self.news.get("failed", 0) + self.news.get("unreadable", 0)
        if self.stopped:
            return ERROR, f"stopped: {self.error}"
        if failed and not self.news.get("done", 0):
            return ERROR, f"no image succeeds: {self.error}"
        if self.silence_s > SILENCE_S:
            return WARN, f"no image for {self.silence_s:.0f} s. Check the topic's name and its QoS."
        if failed:
            return WARN, f"{failed} images failed: {self.error}"
        if not self.enabled:
            return OK, "disabled"
        if cut := self.news.get("incomplete", 0):
            return WARN, f"the deadline cut the work on {cut} images"
        return OK, "segmenting"


def diagnostics(report: NodeReport, node: str, hardware_id: str, time_ns: int) -> Any:
    """Return a ``diagnostic_msgs/DiagnosticArray`` with one status.

    Args:
        report: Figures of the node.
        node: Name of the node.
        hardware_id: Model and device.
        time_ns: Time of the report.
    """
    t = ros_messages.types().types
    level, reason = report.level()
    texts = {
        **{name: str(count) for name, count in report.counts.items()},
        **{name: f"{seconds:.4f}" for name, seconds in report.times_s.items()},
        "last_error": report.error,
    }
    values = [t["diagnostic_msgs/msg/KeyValue"](key, value) for key, value in texts.items()]
    status = t["diagnostic_msgs/msg/DiagnosticStatus"](level, f"{node}: segmentation", reason, hardware_id, values)
    return t[DIAGNOSTICS](ros_messages.header(time_ns, ""), [status])
