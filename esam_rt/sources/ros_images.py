"""Pixels of ROS image messages: every encoding of cameras, with row padding and either byte order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import InputError
from esam_rt.sources.frame import Frame

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
# Encoding: type of a sample, samples a pixel, conversion of OpenCV to RGB (None: it is RGB already).
_PACKED: dict[str, tuple[type[np.generic], int, int | None]] = {
    "rgb8": (np.uint8, 3, None),
    "bgr8": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (np.uint8, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "8uc1": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "8uc3": (np.uint8, 3, cv2.COLOR_BGR2RGB),
    "8uc4": (np.uint8, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (np.uint8, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "16uc1": (np.uint16, 1, cv2.COLOR_GRAY2RGB),
    "32fc1": (np.float32, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (np.uint16, 3, None),
    "bgr16": (np.uint16, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (np.uint16, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (np.uint16, 4, cv2.COLOR_BGRA2RGB),
    # OpenCV names a pattern by the second row and column.
    "bayer_rggb8": (np.uint8, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (np.uint8, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (np.uint8, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (np.uint8, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": (np.uint16, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": (np.uint16, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": (np.uint16, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": (np.uint16, 1, cv2.COLOR_BayerGB2RGB),
    "uyvy": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": (np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422_yuy2": (np.uint8, 2, cv2.COLOR_YUV2RGB_YUYV),
}
# A plane of Y, then half as many rows: U and V in turn, or one plane after the other.
_PLANAR = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21, "i420": cv2.COLOR_YUV2RGB_I420}
_PERCENTILES = (0.5, 99.5)
_MOST_PIXELS = 1 << 28


@dataclass(frozen=True)
class RosHeader:
    """Header of an image message, as it was recorded.

    Attributes:
        sec: Seconds of the stamp.
        nanosec: Nanoseconds of the stamp.
        frame_id: Coordinate frame.
        topic: Topic of the message.
        log_time_ns: Time of the recording.
    """

    sec: int
    nanosec: int
    frame_id: str
    topic: str
    log_time_ns: int


class RosImages:
    """Converts the images of one topic. Samples of more than 8 bits are scaled the same way in all images.

    Args:
        sample_range: Value of black and of white for samples of more than 8 bits. Default: percentiles of the first
            image.
    """

    def __init__(self, sample_range: tuple[float, float] | None = None) -> None:
        self._range = sample_range

    def rgb(self, message: Any) -> NDArray[np.uint8]:
        """Convert a ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``, of ROS 1 or 2.

        Args:
            message: The message, of any library.

        Returns:
            uint8 [H, W, 3].

        Raises:
            InputError: The encoding is unknown, or the data do not fit it.
        """
        if hasattr(message, "encoding"):
            return self._raw(message)
        return _compressed(bytes(message.data), str(message.format))

    def _raw(self, message: Any) -> NDArray[np.uint8]:
        height, width, step = int(message.height), int(message.width), int(message.step)
        encoding = str(message.encoding)
        data = np.frombuffer(message.data, np.uint8)
        name = encoding.lower()
        if not 0 < height * width <= _MOST_PIXELS:
            raise InputError(f"found {width} x {height} pixels, expected 1 to {_MOST_PIXELS} in all")
        if name in _PLANAR:
            rows = _rows(data, height * 3 // 2, width, step, encoding)
            return np.asarray(cv2.cvtColor(np.ascontiguousarray(rows), _PLANAR[name]), np.uint8)
        if name not in _PACKED:
            known = ", ".join([*_PACKED, *_PLANAR])
            raise InputError(f"found encoding {encoding!r}, expected one of {known}, or a CompressedImage")
        dtype, samples, code = _PACKED[name]
        kind = np.dtype(dtype).newbyteorder(">" if message.is_bigendian else "<")
        rows = _rows(data, height, width * samples * kind.itemsize, step, encoding)
        pixels = np.ascontiguousarray(rows).view(kind).reshape(height, width, samples)
        pixels = pixels[..., 0] if samples == 1 else pixels
        if dtype is not np.uint8:
            pixels = self._to_8_bits(pixels.astype(dtype))
        if code is None:
            return np.ascontiguousarray(pixels, np.uint8)
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code), np.uint8)

    def _to_8_bits(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        if self._range is None:
            used = samples[np.isfinite(samples)]
            low, high = np.percentile(used, _PERCENTILES) if used.size else (0.0, 1.0)
            self._range = float(low), float(high if high > low else low + 1)
        low, high = self._range
        scaled = (samples.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
        limited: NDArray[np.float32] = np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255)
        return (limited + np.float32(0.5)).astype(np.uint8)


def frame_bytes(encoding: str, height: int, width: int) -> int:
    """Return the bytes of an image without row padding.

    Args:
        encoding: An encoding of `RosImages`, in lower case.
        height: Pixels.
        width: Pixels.
    """
    if encoding in _PLANAR:
        return height * 3 // 2 * width
    dtype, samples, _ = _PACKED[encoding]
    return height * width * samples * np.dtype(dtype).itemsize


def ros_frame(message: Any, images: RosImages, name: str, topic: str, log_time_ns: int) -> Frame:
    """Turn an image message into a frame with its header.

    Args:
        message: ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``, of any library.
        images: Converts the images of this topic.
        name: Name of the frame.
        topic: Topic of the message.
        log_time_ns: Time of the recording or of the reception.

    Raises:
        InputError: The encoding is unknown, or the data do not fit it.
    """
    stamp = message.header.stamp
    nanosec = int(getattr(stamp, "nanosec", getattr(stamp, "nsec", 0)))  # ROS 2, ROS 1
    header = RosHeader(int(stamp.sec), nanosec, str(message.header.frame_id), topic, log_time_ns)
    stamp_ns = header.sec * 1_000_000_000 + header.nanosec
    return Frame(images.rgb(message), name, stamp_ns, header.frame_id, header, disposable=True)


def _rows(data: NDArray[np.uint8], height: int, row_bytes: int, step: int, encoding: str) -> NDArray[np.uint8]:
    """Return the rows uint8 [H, bytes] without their padding."""
    step = step or row_bytes
    if step < row_bytes:
        raise InputError(f"found {step} bytes a row, expected {row_bytes} or more for {encoding}")
    if len(data) < step * (height - 1) + row_bytes:
        raise InputError(f"found {len(data)} bytes, expected {step * height} for {height} rows of {encoding}")
    return np.lib.stride_tricks.as_strided(data, (height, row_bytes), (step, 1), writeable=False)


def _compressed(data: bytes, message_format: str) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG. ``compressedDepth`` has a header of 12 bytes before its PNG."""
    if "compressedDepth" in message_format:
        raise InputError(f"found a depth image ({message_format}), expected a picture")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        raise InputError(f"found {len(data)} bytes of {message_format!r} that are no picture, expected a JPEG or PNG")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
