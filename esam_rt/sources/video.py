"""Video: frames of video files, network streams and cameras, by PyAV."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import InputError, MissingDependencyError
from esam_rt.sources.frame import Frame

if TYPE_CHECKING:
    import av.container
    import av.video

CAMERA = "/dev/video"  # V4L2 devices begin like this
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # before a stream is opened again; doubled each time
_NANOSECONDS = 1_000_000_000
_log = logging.getLogger("esam_rt")


@dataclass(frozen=True)
class VideoHeader:
    """Times of a frame, as its container states them.

    Attributes:
        pts: Presentation time in units of ``time_base_s``, or None.
        time_base_s: Seconds.
        connection: 0 for the first connection to a stream, 1 after the first reconnection, and so on.
    """

    pts: int | None
    time_base_s: float
    connection: int = 0


class Video:
    """Frames of a video file, a network stream or a V4L2 camera. It needs the extra ``video``.

    A file ends at its end. A stream that breaks is opened again, after 0.5 s, 1 s, 2 s and so on up to 30 s. Lost
    frames are not replaced: the next frame has another ``header.connection``, and a warning names the cause. Packets
    that cannot be decoded are left out with a warning.

    Args:
        url: Path of a file, ``rtsp://``, ``tcp://``, ``udp://`` or another URL that FFmpeg knows, or ``/dev/video0``.
        live: Frames that are not read in time are lost, and a broken stream is opened again. Default: true for all but
            files.
        options: Options of FFmpeg, such as ``{"rtsp_transport": "tcp"}``.
        timeout_s: Longest time to wait for data.

    Attributes:
        stamp_ns of a frame: Presentation time in nanoseconds from the beginning of the file or of the connection.

    Raises:
        InputError: The file is missing.
        MissingDependencyError: PyAV is not installed.

    Example:
        >>> with Video("drive.mp4") as video:  # doctest: +SKIP
        ...     for frame in video:
        ...         entities = segmenter(frame.image_hwc_rgb)
    """

    def __init__(
        self,
        url: str | Path,
        *,
        live: bool | None = None,
        options: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        _av()
        self.url = str(url)
        self._is_file = "://" not in self.url and not self.url.startswith(CAMERA)
        self.is_live = (not self._is_file) if live is None else live
        self._options = dict(options or {})
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._length: int | None = None
        if self._is_file:
            if not Path(self.url).is_file():
                raise InputError(f"{self.url}: there is no such file. Check the path.")
            with self._open() as container:
                self._length = container.streams.video[0].frames or None

    @property
    def length(self) -> int | None:
        """Number of frames as the file states it, or None if it is unknown."""
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order, until the end of the file or `close`.

        Raises:
            InputError: The file or stream cannot be opened the first time, or it has no video.
        """
        number, connection, wait_s = 0, 0, FIRST_WAIT_S
        while not self._closed.is_set():
            cause = "it ended"
            try:
                with self._open() as container:
                    for frame in self._frames(container, number, connection):
                        number, wait_s = number + 1, FIRST_WAIT_S
                        yield frame
            except InputError as e:
                if not number:
                    raise
                cause = str(e)
            except OSError as e:  # FFmpeg's errors of input and output
                if not self.is_live:
                    _log.warning("%s: reading stops after %d frames (%s).", self.url, number, e)
                cause = str(e)
            if not self.is_live or self._closed.is_set():
                return
            _log.warning("%s: %s, after %d frames. It is opened again in %.1f s.", self.url, cause, number, wait_s)
            self._closed.wait(wait_s)
            wait_s, connection = min(2 * wait_s, LONGEST_WAIT_S), connection + 1

    def close(self) -> None:
        """Stop the iteration at the next frame, or while it waits for a stream. Any thread may call it."""
        self._closed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> av.container.InputContainer:
        options = dict(self._options)
        if self._is_file:
            options.setdefault("protocol_whitelist", "file")  # a playlist must not reach the network
        camera = self.url.startswith(CAMERA)
        try:
            container: av.container.InputContainer = _av().open(
                self.url, format="v4l2" if camera else None, options=options, timeout=(self._timeout_s, self._timeout_s)
            )
        except (OSError, ValueError) as e:  # FFmpeg's errors derive from them
            hint = "Check that it is a whole video." if self._is_file else "Check the address."
            raise InputError(f"{self.url}: cannot be opened ({_reason(e)}). {hint}") from e
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.url}: found no video, expected a file or stream with a picture.")
        return container

    def _frames(self, container: av.container.InputContainer, number: int, connection: int) -> Iterator[Frame]:
        """Decode the first video stream. Damaged packets and pictures are left out."""
        stream = container.streams.video[0]
        base = float(stream.time_base or 0)
        first = stream.start_time or 0
        stem = PurePosixPath(Path(self.url).name).stem if self._is_file else "stream"
        path = Path(self.url) if self._is_file else None
        damaged = 0
        for packet in container.demux(stream):
            if self._closed.is_set():
                return
            try:
                pictures = packet.decode()
            except _av().error.InvalidDataError:
                damaged += 1
                continue
            for picture in pictures:
                if picture.is_corrupt:
                    damaged += 1
                    continue
                stamp_ns = None if picture.pts is None else round((picture.pts - first) * base * _NANOSECONDS)
                header = VideoHeader(picture.pts, base, connection)
                image = upright(np.asarray(picture.to_ndarray(format="rgb24"), np.uint8), picture.rotation)
                yield Frame(image, f"{stem}/{number:06}", stamp_ns, header=header, path=path, disposable=True)
                number += 1
        if damaged:
            _log.warning("%s: %d damaged packets were left out.", self.url, damaged)


def upright(image_hwc: NDArray[np.uint8], rotation_degrees: float) -> NDArray[np.uint8]:
    """Turn a picture as its display matrix says.

    Args:
        image_hwc: uint8 [H, W, 3].
        rotation_degrees: Counterclockwise, a multiple of 90.
    """
    turns = round(rotation_degrees / 90) % 4
    return np.ascontiguousarray(np.rot90(image_hwc, turns)) if turns else image_hwc


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _av() -> Any:
    try:
        import av
    except ImportError as e:
        raise MissingDependencyError("Video needs PyAV: pip install 'esam-rt[video]'") from e
    return av
