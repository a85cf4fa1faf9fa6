"""LiveSegmentation: serialized images in, serialized messages of their entities out. It holds the logic of the node."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from esam_rt.integrations.ros.image_topic import ImageTopic
from esam_rt.integrations.ros.node_diagnostics import NodeReport
from esam_rt.integrations.ros.node_parameters import NodeParameters
from esam_rt.run.stream import Stream, StreamResult
from esam_rt.run.stream_statistics import REMEMBERED
from esam_rt.sinks import ros_messages as ros
from esam_rt.sinks.overlays import overlay_jpeg
from esam_rt.sources.ros_images import RosHeader

ENTITIES, DETECTIONS, LABEL_INFO, OVERLAY = "entities", "detections", "label_info", "overlay/compressed"
OUTPUTS = {ENTITIES: ros.IMAGE, DETECTIONS: ros.DETECTIONS, LABEL_INFO: ros.LABEL_INFO, OVERLAY: ros.COMPRESSED}
_JOIN_S = 10.0


class Outputs(Protocol):
    """The publishers of a node."""

    def is_wanted(self, name: str) -> bool:
        """Tell if anybody subscribes to one of ``OUTPUTS``."""
        ...

    def publish(self, name: str, message: bytes) -> None:
        """Publish a message in CDR on one of ``OUTPUTS``."""
        ...


class LiveSegmentation:
    """Segments the images of one topic in a thread of its own.

    Args:
        segmenter: An ``EntitySegmenter``, or what a ``Stream`` takes in its place.
        parameters: Parameters of the node.
        topic: Name of the topic of images.
        outputs: Where messages go. They are called in the thread.
        clock_ns: Time of the node.
        log: Called with one line for each error.
    """

    def __init__(
        self,
        segmenter: Callable[..., Any],
        parameters: NodeParameters,
        topic: str,
        outputs: Outputs,
        clock_ns: Callable[[], int],
        log: Callable[[str], None],
    ) -> None:
        self.enabled = parameters.enable
        self._outputs, self._clock_ns, self._log = outputs, clock_ns, log
        kind = ros.IMAGE if parameters.image_transport == "raw" else ros.COMPRESSED
        depth = 1 if parameters.policy == "latest" else parameters.depth
        self._topic = ImageTopic(topic, kind, depth, self._note_error)
        # The topic holds the images that wait. The stream asks for one when the one before is done.
        self._stream = Stream(
            segmenter,
            self._topic,
            policy="every",
            max_in_flight=1,
            deadline_s=parameters.deadline_s,
            track=parameters.track,
        )
        self._counts = Counter(dict.fromkeys(("disabled", "incomplete"), 0))
        self._reported: Counter[str] = Counter()
        self._age_s: deque[float] = deque(maxlen=REMEMBERED)
        self._last_ns = clock_ns()
        self._error, self._stopped, self._label_info_sent = "", False, False
        self._thread = threading.Thread(target=self._work, name="esam-rt node", daemon=True)
        self._thread.start()

    def receive(self, message: bytes) -> None:
        """Take an image. It returns at once.

        Args:
            message: The image in CDR.
        """
        self._last_ns = self._clock_ns()
        if self.enabled:
            self._topic.put(message, self._last_ns)
        else:
            self._counts["disabled"] += 1

    def report(self) -> NodeReport:
        """Return the figures up to now, and what is new since the last call."""
        statistics = self._stream.statistics()["0"]
        topic = self._topic
        counts = {
            "received": topic.received + self._counts["disabled"],
            "done": statistics.done,
            "failed": statistics.failed,
            "unreadable": topic.unreadable,
            "dropped": topic.dropped,
            **self._counts,
        }
        news = Counter(counts)
        news.subtract(self._reported)
        self._reported = Counter(counts)
        ages = list(self._age_s)
        times_s = {f"age_p{p}_s": float(np.percentile(ages, p)) for p in (50, 95)} if ages else {}
        if statistics.done:
            times_s |= {"latency_p50_s": statistics.latency_p50_s, "latency_p95_s": statistics.latency_p95_s}
        silence_s = (self._clock_ns() - self._last_ns) / 1e9
        return NodeReport(counts, news, times_s, silence_s, self.enabled, self._error, self._stopped)

    def close(self) -> None:
        """End the work. The image in work is dropped."""
        self._stream.close()
        self._thread.join(_JOIN_S)

    def _work(self) -> None:
        try:
            for result in self._stream:
                if result.error is not None:
                    self._note_error(result.error)
                else:
                    self._publish(result)
        except Exception as e:  # of a publisher: the node must not look healthy while its thread is gone
            self._stopped = True
            self._note_error(e)

    def _publish(self, result: StreamResult) -> None:
        frame, entities, wanted = result.frame, result.entities, self._outputs.is_wanted
        if frame is None or entities is None:
            return
        header = ros.header_of(frame)
        if not self._label_info_sent:  # latched: later subscribers get it too
            self._send(LABEL_INFO, ros.label_info(header))
            self._label_info_sent = True
        if wanted(ENTITIES):
            self._send(ENTITIES, ros.id_image(header, entities))
        if wanted(DETECTIONS):
            self._send(DETECTIONS, ros.detections(header, entities))
        if isinstance(frame.header, RosHeader):
            self._age_s.append((self._clock_ns() - frame.header.log_time_ns) / 1e9)
        self._counts["incomplete"] += not result.complete
        if wanted(OVERLAY):  # last: it takes longest
            self._send(OVERLAY, ros.compressed_image(header, overlay_jpeg(frame.image_hwc_rgb, entities), "jpeg"))

    def _send(self, name: str, message: Any) -> None:
        self._outputs.publish(name, ros.serialized(message))

    def _note_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text != self._error:  # a broken camera gives the same line for each image
            self._log(text)
        self._error = text
