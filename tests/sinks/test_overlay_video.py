"""OverlayVideo: read back by PyAV, also when the writer was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from esam_rt.entity_map import EntityMap
from esam_rt.errors import MissingDependencyError
from esam_rt.sinks.overlay_video import OverlayVideo
from esam_rt.sources.frame import Frame


def entities(height: int, width: int) -> EntityMap:
    labels = np.zeros((height, width), int)
    labels[height // 4 : height // 2, width // 4 : width // 2] = 1
    return EntityMap.from_labels(labels, np.array([0.9]), np.array([0]))


def frame(number: int, height: int = 48, width: int = 64, stamp_ns: int | None = None) -> Frame:
    return Frame(np.full((height, width, 3), 20 + 8 * number, np.uint8), f"clip/{number:06}", stamp_ns)


def read(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(picture.time, picture.to_ndarray(format="rgb24")) for picture in container.decode(video=0)]


def test_frames_keep_their_times_and_show_the_entities(tmp_path: Path) -> None:
    stamps = [5_000_000_000, 5_100_000_000, 5_350_000_000, 5_400_000_000]
    with OverlayVideo(tmp_path) as sink:
        for number, stamp in enumerate(stamps):
            sink.write(frame(number, stamp_ns=stamp), entities(48, 64))
    found = read(tmp_path / "overlay.mp4")
    assert [round(time, 3) for time, _ in found] == [0, 0.1, 0.35, 0.4]
    for number, (_, image) in enumerate(found):
        assert image.shape == (48, 64, 3)
        assert abs(image[40, 50].mean() - (20 + 8 * number)) < 6  # no entity: the photo itself
        assert np.ptp(image[16, 20].astype(int)) > 20 or image[16, 20].mean() > 40 + 8 * number  # tinted


def test_frames_without_times_or_of_other_sizes(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path, fps=5) as sink:
        sink.write(frame(0, 49, 65), entities(49, 65))
        sink.write(frame(1, 20, 90), entities(20, 90))
        sink.write(frame(2, stamp_ns=0), entities(48, 64))
        sink.write(frame(3, stamp_ns=0), entities(48, 64))
    found = read(tmp_path / "overlay.mp4")
    assert {image.shape for _, image in found} == {(48, 64, 3)}
    assert [round(time, 2) for time, _ in found] == [0, 0.2, 0.4, 0.6]
    assert found[1][1][2].max() < 16  # the bar above a wide frame


def test_a_run_without_frames_makes_no_video(tmp_path: Path) -> None:
    with OverlayVideo(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_a_readable_video(tmp_path: Path) -> None:
    code = f"""
import os, signal
from tests.sinks.test_overlay_video import OverlayVideo, entities, frame
sink = OverlayVideo({str(tmp_path)!r}).__enter__()
for number in range(100):
    sink.write(frame(number % 20), entities(48, 64))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert 30 <= len(read(tmp_path / "overlay.mp4")) < 100  # the encoder holds back some


def test_without_pyav_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[video\]'"):
        OverlayVideo(tmp_path)
