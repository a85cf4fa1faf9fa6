"""RawFrames: pictures without a container, as ``ffmpeg -f rawvideo`` and cameras' programs write them to a pipe."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import BinaryIO

from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.sources.frame import Frame
from esam_rt.sources.ros_images import RosImages, frame_bytes

STDIN = "-"
# Names of FFmpeg: the encoding of `RosImages`, and if its samples are big-endian.
PIXEL_FORMATS: dict[str, tuple[str, bool]] = {
    "rgb24": ("rgb8", False),
    "bgr24": ("bgr8", False),
    "rgba": ("rgba8", False),
    "rgb0": ("rgba8", False),
    "bgra": ("bgra8", False),
    "bgr0": ("bgra8", False),
    "gray": ("mono8", False),
    "gray16le": ("mono16", False),
    "gray16be": ("mono16", True),
    "rgb48le": ("rgb16", False),
    "rgb48be": ("rgb16", True),
    "bgr48le": ("bgr16", False),
    "rgba64le": ("rgba16", False),
    "bgra64le": ("bgra16", False),
    "yuv420p": ("i420", False),
    "nv12": ("nv12", False),
    "nv21": ("nv21", False),
    "yuyv422": ("yuyv", False),
    "uyvy422": ("uyvy", False),
    "bayer_rggb8": ("bayer_rggb8", False),
    "bayer_bggr8": ("bayer_bggr8", False),
    "bayer_gbrg8": ("bayer_gbrg8", False),
    "bayer_grbg8": ("bayer_grbg8", False),
    "bayer_rggb16le": ("bayer_rggb16", False),
    "bayer_bggr16le": ("bayer_bggr16", False),
    "bayer_gbrg16le": ("bayer_gbrg16", False),
    "bayer_grbg16le": ("bayer_grbg16", False),
}
_EVEN = ("yuv420p", "nv12", "nv21", "yuyv422", "uyvy422")  # one color for two pixels
_NANOSECONDS = 1_000_000_000
_log = logging.getLogger("esam_rt")


@dataclass(frozen=True)
class RawFormat:
    """Format of raw frames.

    Attributes:
        pixel_format: Name of FFmpeg, one of `PIXEL_FORMATS`.
        width: Pixels.
        height: Pixels.
        fps: Frames a second, for times. None: frames have no time.

    Raises:
        SettingsError: A value is wrong.
    """

    pixel_format: str
    width: int
    height: int
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.pixel_format not in PIXEL_FORMATS:
            known = did_you_mean(self.pixel_format, PIXEL_FORMATS)
            raise SettingsError(f"--raw {self.pixel_format}: unknown.{known} These are names of ffmpeg's -pix_fmt.")
        even = self.pixel_format in _EVEN
        if self.width < 1 or self.height < 1 or (even and (self.width % 2 or self.height % 2)):
            expected = "even numbers above 0" if even else "numbers above 0"
            raise SettingsError(f"--size {self.width}x{self.height}: expected {expected} for {self.pixel_format}.")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise SettingsError(f"--fps {self.fps}: expected a number above 0.")

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return frame_bytes(PIXEL_FORMATS[self.pixel_format][0], self.height, self.width)


class RawFrames:
    """Frames one after the other, without headers, from standard input or another stream of bytes.

    A last frame that is cut off is left out, and a warning says how much of it came. A frame of more than 8 bits a
    sample is scaled by percentiles of the first frame, or by ``sample_range``.

    Args:
        raw: Format of the frames.
        stream: Where the bytes come from. Default: standard input.
        sample_range: Value of black and of white, for samples of more than 8 bits.

    Example:
        >>> for frame in RawFrames(RawFormat("rgb24", 640, 480, fps=10)):  # doctest: +SKIP
        ...     entities = segmenter(frame.image_hwc_rgb)
    """

    is_live = False
    length = None

    def __init__(
        self, raw: RawFormat, stream: BinaryIO | None = None, sample_range: tuple[float, float] | None = None
    ) -> None:
        self._raw, self._stream, self._images = raw, stream, RosImages(sample_range)

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order, until the stream ends."""
        raw, stream = self._raw, self._stream or sys.stdin.buffer
        encoding, is_bigendian = PIXEL_FORMATS[raw.pixel_format]
        message = SimpleNamespace(
            encoding=encoding, is_bigendian=is_bigendian, height=raw.height, width=raw.width, step=0, data=b""
        )
        number = 0
        while len(data := _read(stream, raw.frame_bytes)) == raw.frame_bytes:
            message.data = data
            stamp_ns = None if raw.fps is None else round(number * _NANOSECONDS / raw.fps)
            yield Frame(self._images.rgb(message), f"stdin/{number:06}", stamp_ns, disposable=True)
            number += 1
        if data or not number:
            found = (
                f"{len(data)} of the {raw.frame_bytes} bytes of a frame of {raw.width}x{raw.height} {raw.pixel_format}"
            )
            _log.warning("stdin: ended after %d frames with %s. Check --raw and --size.", number, found)


def _read(stream: BinaryIO, size_bytes: int) -> bytes:
    """Read so many bytes, or fewer at the end. A pipe gives them in pieces."""
    pieces = bytearray()
    while len(pieces) < size_bytes:
        piece = stream.read(size_bytes - len(pieces))
        if not piece:
            break
        pieces += piece
    return bytes(pieces)
