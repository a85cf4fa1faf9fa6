"""ROS 2 messages of entities: an id image, detections, what ids mean, and an overlay. ROS is not needed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError
from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosHeader

ENTITY = "entity"  # the one class
# Messages of vision_msgs 4. No type store of rosbags has them.
VISION_MSGS = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y\n",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score\n",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id\n"
    ),
    "vision_msgs/msg/Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    "vision_msgs/msg/LabelInfo": ("std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"),
}
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
DETECTIONS, LABEL_INFO = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/LabelInfo"


@cache
def types() -> Any:
    """Return a type store of rosbags with the messages of ROS 2 and of vision_msgs.

    Raises:
        MissingDependencyError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as e:
        raise MissingDependencyError("ROS messages need rosbags and mcap: pip install 'esam-rt[bags]'") from e
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in VISION_MSGS.items():
        store.register(get_types_from_msg(definition, name))
    return store


def header_of(frame: Frame) -> Any:
    """Return the ``std_msgs/Header`` of a frame: that of its own message, or its time and frame. 0 is an unknown time.

    Args:
        frame: The frame.
    """
    own = frame.header
    if isinstance(own, RosHeader):
        return _header(own.sec, own.nanosec, own.frame_id)
    return header(frame.stamp_ns or 0, frame.frame_id)


def header(stamp_ns: int, frame_id: str) -> Any:
    """Return a ``std_msgs/Header``.

    Args:
        stamp_ns: Nanoseconds since the epoch.
        frame_id: Coordinate frame.
    """
    return _header(*divmod(stamp_ns, 1_000_000_000), frame_id)


def id_image(header: Any, entities: EntityMap) -> Any:
    """Return the ids as ``sensor_msgs/Image`` mono16: 0 is no entity, i + 1 is entity i, in the order of `detections`.

    Args:
        header: Header of the message.
        entities: The entities.
    """
    height, width = entities.labels.shape
    data = np.ascontiguousarray(entities.labels, "<u2").reshape(-1).view(np.uint8)
    return types().types[IMAGE](header, height, width, "mono16", 0, width * 2, data)


def detections(header: Any, entities: EntityMap) -> Any:
    """Return ``vision_msgs/Detection2DArray``. ``id`` is the track id, or empty without a tracker.

    Args:
        header: Header of the array and of each detection.
        entities: The entities.
    """
    t = types().types
    no_pose = t["geometry_msgs/msg/Pose"](
        t["geometry_msgs/msg/Point"](0.0, 0.0, 0.0), t["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    )
    pose = t["geometry_msgs/msg/PoseWithCovariance"](no_pose, np.zeros(36))
    track_id = entities.track_id
    found = []
    for i, (x0, y0, x1, y1) in enumerate(entities.box_xyxy.tolist()):
        hypothesis = t["vision_msgs/msg/ObjectHypothesis"](ENTITY, float(entities.score[i]))
        center = t["vision_msgs/msg/Point2D"]((x0 + x1) / 2, (y0 + y1) / 2)
        box = t["vision_msgs/msg/BoundingBox2D"](
            t["vision_msgs/msg/Pose2D"](center, 0.0), float(x1 - x0), float(y1 - y0)
        )
        result = t["vision_msgs/msg/ObjectHypothesisWithPose"](hypothesis, pose)
        name = "" if track_id is None else str(int(track_id[i]))
        found.append(t["vision_msgs/msg/Detection2D"](header, [result], box, name))
    return t[DETECTIONS](header, found)


def label_info(header: Any) -> Any:
    """Return ``vision_msgs/LabelInfo``: the one class, and the score that entities have at least.

    Args:
        header: Header of the message.
    """
    t = types().types
    return t[LABEL_INFO](header, [t["vision_msgs/msg/VisionClass"](1, ENTITY)], 0.0)


def compressed_image(header: Any, data: bytes, kind: str) -> Any:
    """Return a ``sensor_msgs/CompressedImage``.

    Args:
        header: Header of the message.
        data: A JPEG or PNG.
        kind: ``jpeg`` or ``png``.
    """
    return types().types[COMPRESSED](header, kind, np.frombuffer(data, np.uint8))


def serialized(message: Any) -> bytes:
    """Return a message as CDR, the form of ROS 2.

    Args:
        message: The message.
    """
    return bytes(types().serialize_cdr(message, message.__msgtype__))


def definition(name: str) -> str:
    """Return the definition of a type with all types that it uses, as MCAP wants it.

    Args:
        name: Name of the type, such as ``sensor_msgs/msg/Image``.
    """
    return str(types().generate_msgdef(name, ros_version=2)[0])


def _header(sec: int, nanosec: int, frame_id: str) -> Any:
    t = types().types
    return t["std_msgs/msg/Header"](t["builtin_interfaces/msg/Time"](sec, nanosec), frame_id)


def label_png(labels: NDArray[np.uint16]) -> bytes:
    """Encode ids as a 16-bit PNG.

    Args:
        labels: uint16 [H, W].
    """
    import cv2

    return bytes(cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
