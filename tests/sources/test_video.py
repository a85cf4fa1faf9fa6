"""Video: files and streams that PyAV itself wrote, with pictures that can be told apart."""

from __future__ import annotations

import logging
import queue
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.errors import InputError, MissingDependencyError
from esam_rt.sources import video as video_module
from esam_rt.sources.video import Video, VideoHeader, upright
from tests.support.processes import GUARD_S

H, W, RATE = 48, 64, 10


def picture(number: int) -> NDArray[np.uint8]:
    """A bright bar that moves four pixels a frame over a grey ground."""
    image = np.full((H, W, 3), 60, np.uint8)
    image[:, 4 * (number % 14) : 4 * (number % 14) + 8] = [230, 200, 60]
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    columns = np.flatnonzero(image.mean(axis=(0, 2)) > 110)
    return int(columns[0] + 2) // 4


def write(target: object, count: int, container_format: str, codec: str = "mpeg4", first: int = 0) -> None:
    with av.open(target, "w", format=container_format) as container:  # type: ignore[call-overload]
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.gop_size = W, H, 5
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number in range(first, first + count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "my drive.mp4"
    write(str(path), 12, "mp4")
    return path


def test_a_file_gives_all_frames_with_their_times(clip: Path) -> None:
    with Video(clip) as video:
        frames = list(video)
    assert not video.is_live and video.length == 12
    assert [number_of(frame.image_hwc_rgb) for frame in frames] == list(range(12))
    assert [frame.stamp_ns for frame in frames] == [n * 100_000_000 for n in range(12)]
    assert frames[3].name == "my drive/000003" and frames[3].path == clip
    assert frames[3].image_hwc_rgb.dtype == np.uint8
    assert np.abs(frames[3].image_hwc_rgb.astype(int) - picture(3)).mean() < 8
    header = frames[3].header
    assert isinstance(header, VideoHeader) and header.pts is not None
    assert header.pts * header.time_base_s == pytest.approx(0.3)


def test_close_ends_the_iteration(clip: Path) -> None:
    video = Video(clip)
    frames = iter(video)
    next(frames)
    video.close()
    assert len(list(frames)) <= 1


def test_damaged_packets_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clip.avi"
    write(str(path), 12, "avi", "mjpeg")
    parts = path.read_bytes().split(b"\xff\xd8\xff")  # the first bytes of each JPEG
    parts[5] = bytes(len(parts[5]) - 40) + parts[5][-40:]  # the next picture's place in the file stays
    path.write_bytes(b"\xff\xd8\xff".join(parts).replace(b"\xff\xd8\xff\0\0\0", bytes(6)))
    with caplog.at_level(logging.WARNING, logger="esam_rt"):
        found = [number_of(frame.image_hwc_rgb) for frame in Video(path)]
    assert found == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert "1 damaged packets were left out" in caplog.text


def test_a_cut_off_stream_file_gives_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "clip.ts"
    write(str(path), 60, "mpegts", "mpeg2video")
    whole = [number_of(frame.image_hwc_rgb) for frame in Video(path)]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    part = [number_of(frame.image_hwc_rgb) for frame in Video(path)]
    assert len(whole) == 60 and 10 < len(part) < 50
    assert part[:10] == whole[:10]


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 40])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"no\.mp4: (cannot be opened|found no video)"):
        list(Video(path))
    with pytest.raises(InputError, match="there is no such file"):
        Video(tmp_path / "missing.mp4")


def test_a_playlist_does_not_reach_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        path = tmp_path / "list.m3u8"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n")
        with pytest.raises(InputError):
            list(Video(path))
        with pytest.raises(BlockingIOError):
            server.accept()  # nobody called


@contextmanager
def broadcast(*parts: tuple[int, int]) -> Iterator[str]:
    """Serve MPEG-TS: each connection gets one part (count, first picture), then it breaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended: queue.Queue[BaseException | None] = queue.Queue()

        def serve() -> None:
            try:
                for count, first in parts:
                    connection, _ = server.accept()
                    with connection, connection.makefile("wb") as file:
                        write(file, count, "mpegts", "mpeg2video", first)
                ended.put(None)
            except BaseException as e:
                ended.put(e)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{port}"
        error = ended.get(timeout=GUARD_S)
        thread.join()
        if error is not None:
            raise error


def test_a_broken_stream_is_opened_again_and_no_frame_is_invented(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(video_module, "FIRST_WAIT_S", 0.0)
    found: list[tuple[int, int]] = []
    with broadcast((8, 0), (6, 3)) as url, Video(url, timeout_s=60) as video:
        assert video.is_live and video.length is None
        for frame in video:
            found.append((frame.header.connection, number_of(frame.image_hwc_rgb)))
            if len(found) == 14:
                video.close()
    assert found == [(0, n) for n in range(8)] + [(1, n) for n in range(3, 9)]
    assert "It is opened again in" in caplog.text


def test_a_stream_that_never_answers_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match=r"cannot be opened .*Check the address"):
        list(Video(f"tcp://127.0.0.1:{port}"))


def test_pictures_are_turned_upright() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert upright(image, 0) is image
    assert np.array_equal(upright(image, -90.0), np.rot90(image, -1))
    assert np.array_equal(upright(image, 180.0), image[::-1, ::-1])


def test_without_pyav_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[video\]'"):
        Video("a.mp4")
