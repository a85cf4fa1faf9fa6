"""OverlayVideo: one video of a run, its frames with the entities drawn over them."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError
from esam_rt.sinks.growing_file import GrowingFile
from esam_rt.sinks.overlays import draw_overlay
from esam_rt.sources.frame import Frame

_TICKS = 1000  # of the video's clock, a second
_LONGEST_SIDE = 1920


class OverlayVideo(GrowingFile):
    """Write ``overlay.mp4``: H.264, at most 1,920 pixels a side. It needs the extra ``video``.

    Frames keep the times of their source. Frames without a time, or with one that does not rise, come ``1 / fps`` after
    the frame before. All frames get the size of the first one: others are scaled to fit, with black bars. The file
    grows in fragments, so a killed run leaves a video up to the last seconds.

    Args:
        folder: Folder for the file. Default: the folder of the run.
        fps: Frames a second, for frames without a time.

    Raises:
        MissingDependencyError: PyAV is not installed.

    Example:
        >>> with OverlayVideo("out") as sink:  # doctest: +SKIP
        ...     for frame in Video("drive.mp4"):
        ...         sink.write(frame, segmenter(frame.image_hwc_rgb))
    """

    file_name = "overlay.mp4"
    outputs = (file_name,)
    draws_on_image = True

    def __init__(self, folder: Path | str | None = None, fps: float = 10.0) -> None:
        super().__init__(folder)
        _av()
        self._fps = fps
        self._container: Any = None
        self._stream: Any = None
        self._size_wh = (0, 0)
        self._first_ns: int | None = None
        self._pts = -1

    def append(self, frame: Frame, entities: EntityMap, is_first: bool) -> None:
        """Append a frame.

        Args:
            frame: The frame. It is drawn over, without a copy, if it is disposable.
            entities: Its entities.
            is_first: The file must be made.

        Raises:
            OSError: The file cannot be written.
        """
        drawn = draw_overlay(frame.image_hwc_rgb, entities, reuse=frame.disposable)
        if is_first:
            self._begin(drawn)
        picture = _av().VideoFrame.from_ndarray(_fitted(drawn, self._size_wh), format="rgb24")
        self._pts = picture.pts = self._next_pts(frame.stamp_ns)
        picture.time_base = Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(picture))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write what the encoder still holds, and end the file.

        Args:
            summary: Not used.

        Raises:
            OSError: The file cannot be written.
        """
        with self._container:
            self._container.mux(self._stream.encode(None))

    def _begin(self, image_hwc: NDArray[np.uint8]) -> None:
        height, width = image_hwc.shape[:2]
        scale = min(1.0, _LONGEST_SIDE / max(height, width))
        self._size_wh = max(2, round(width * scale) // 2 * 2), max(2, round(height * scale) // 2 * 2)
        # Fragments: a file without its end is readable up to its last whole second.
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
        self._container = _av().open(str(self.file), "w", format="mp4", container_options=options)
        rate = Fraction(self._fps).limit_denominator(1000)
        self._stream = self._container.add_stream(
            "libx264", rate=rate, options={"preset": "veryfast", "crf": "23", "bf": "0"}
        )
        self._stream.width, self._stream.height = self._size_wh
        self._stream.pix_fmt, self._stream.gop_size = "yuv420p", max(1, round(self._fps))
        self._stream.codec_context.time_base = Fraction(1, _TICKS)

    def _next_pts(self, stamp_ns: int | None) -> int:
        if stamp_ns is not None:
            self._first_ns = stamp_ns if self._first_ns is None else self._first_ns
            pts = (stamp_ns - self._first_ns) * _TICKS // 1_000_000_000
            if pts > self._pts:
                return pts
        return self._pts + max(1, round(_TICKS / self._fps)) if self._pts >= 0 else 0


def _fitted(image_hwc: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale an image to a size, with black bars if its shape is another."""
    height, width = image_hwc.shape[:2]
    scale = min(size_wh[0] / width, size_wh[1] / height)
    inner = tuple(min(side, max(1, round(s * scale))) for side, s in zip(size_wh, (width, height), strict=True))
    if (width, height) == size_wh:
        return np.ascontiguousarray(image_hwc)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    out = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    left, top = (size_wh[0] - inner[0]) // 2, (size_wh[1] - inner[1]) // 2
    out[top : top + inner[1], left : left + inner[0]] = cv2.resize(image_hwc, inner, interpolation=method)
    return out


def _av() -> Any:
    try:
        import av
    except ImportError as e:
        raise MissingDependencyError("OverlayVideo needs PyAV: pip install 'esam-rt[video]'") from e
    return av
