"""McapFile: entities as ROS 2 messages in an MCAP, for Foxglove, rosbags and ``ros2 bag``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from esam_rt._version import __version__
from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError, OutputError
from esam_rt.sinks import ros_messages as ros
from esam_rt.sinks.file_sink import FileSink
from esam_rt.sinks.overlays import overlay_jpeg
from esam_rt.sinks.sink import RunInfo
from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosHeader

FILE = "entities.mcap"
_CHUNK_BYTES = 1 << 20
_LATCHED = (
    "- history: 1\n  depth: 1\n  reliability: 1\n  durability: 1\n  deadline: {sec: 9223372036, nsec: 854775807}\n"
    "  lifespan: {sec: 9223372036, nsec: 854775807}\n  liveliness: 1\n"
    "  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}\n  avoid_ros_namespace_conventions: false"
)


class McapFile(FileSink):
    """Write ``entities.mcap``. It needs the extra ``bags``.

    Each frame gives three messages. ``esam/entities`` is a `sensor_msgs/Image` in mono16: 0 for no entity, i + 1 for
    detection i. ``esam/detections`` is a `vision_msgs/Detection2DArray`; ``id`` is the track id.
    ``esam/overlay/compressed`` is a JPEG. ``esam/label_info`` comes once. Topics stand beside the camera's:
    ``/front/image_raw`` leads to ``/front/esam/entities``. Headers and times are those of the image.

    The file grows in chunks of 1 MB. A killed run leaves the whole chunks, and `Bag` reads them.

    Args:
        folder: Folder for the file. Default: the folder of the run.
        png: Write ids as PNG to ``esam/entities/compressed`` in place of the raw image, which takes 4 MB at 1080p.
        overlay: Write overlays.

    Example:
        >>> with McapFile("out") as sink:  # doctest: +SKIP
        ...     for frame in Bag("drive.mcap"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    outputs = (FILE,)

    def __init__(self, folder: Path | str | None = None, *, png: bool = False, overlay: bool = True) -> None:
        super().__init__(folder)
        self._png, self._overlay = png, overlay
        self._file: IO[bytes] | None = None
        self._writer: Any = None
        self._channels: dict[str, int] = {}

    def open(self, run: RunInfo) -> None:
        """Check that the packages are there.

        Args:
            run: The run.

        Raises:
            MissingDependencyError: rosbags or mcap is not installed.
        """
        super().open(run)
        ros.types()

    def write(self, frame: Frame, entities: EntityMap) -> None:
        """Append the messages of a frame.

        Args:
            frame: The frame.
            entities: Its entities.

        Raises:
            OutputError: If the file cannot be written.
        """
        header = ros.header_of(frame)
        own = frame.header
        log_time_ns = own.log_time_ns if isinstance(own, RosHeader) else frame.stamp_ns or 0
        space = own.topic.rpartition("/")[0] if isinstance(own, RosHeader) else ""
        try:
            file = self._file or self._begin()
            if f"{space}/esam/label_info" not in self._channels:
                self._add(f"{space}/esam/label_info", ros.label_info(header), log_time_ns)
            if self._png:
                ids = ros.compressed_image(header, ros.label_png(entities.labels), "png")
                self._add(f"{space}/esam/entities/compressed", ids, log_time_ns)
            else:
                self._add(f"{space}/esam/entities", ros.id_image(header, entities), log_time_ns)
            self._add(f"{space}/esam/detections", ros.detections(header, entities), log_time_ns)
            if self._overlay:
                overlay = ros.compressed_image(header, overlay_jpeg(frame.image_hwc_rgb, entities), "jpeg")
                self._add(f"{space}/esam/overlay/compressed", overlay, log_time_ns)
            file.flush()  # a killed run must not lose a whole chunk
        except OSError as e:
            raise self._failed(e) from e

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the index.

        Args:
            summary: Not used.

        Raises:
            OutputError: If the file cannot be written.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            with file:
                self._writer.finish()
        except OSError as e:
            raise self._failed(e) from e

    def _begin(self) -> IO[bytes]:
        try:
            from mcap.writer import Writer
        except ImportError as e:
            raise MissingDependencyError("McapFile needs rosbags and mcap: pip install 'esam-rt[bags]'") from e
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / FILE).open("wb")
        self._writer = Writer(self._file, chunk_size=_CHUNK_BYTES)
        self._writer.start(profile="ros2", library=f"esam-rt {__version__}")
        return self._file

    def _add(self, topic: str, message: Any, log_time_ns: int) -> None:
        if topic not in self._channels:
            name = message.__msgtype__
            schema = self._writer.register_schema(name, "ros2msg", ros.definition(name).encode())
            latched = {"offered_qos_profiles": _LATCHED} if name == ros.LABEL_INFO else {}
            self._channels[topic] = self._writer.register_channel(topic, "cdr", schema, latched)
        self._writer.add_message(self._channels[topic], log_time_ns, ros.serialized(message), log_time_ns)

    def _failed(self, cause: OSError) -> OutputError:
        return OutputError(f"{self.folder / FILE}: cannot be written ({cause}). Free space or choose another --out.")
