"""RawFrames: bytes that FFmpeg's own converter made, in pieces as pipes give them, and cut off."""

from __future__ import annotations

import io
import logging
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.cli.option_types import raw_format
from esam_rt.errors import SettingsError
from esam_rt.run import run_photos
from esam_rt.run.run_options import RunOptions
from esam_rt.sources import RawFormat, RawFrames, open_source
from esam_rt.sources.raw_frames import PIXEL_FORMATS
from tests.support.fake_segmenter import FakeSegmenter

H, W = 48, 64


def picture(number: int) -> NDArray[np.uint8]:
    """A smooth picture, so that formats with fewer colors can be compared."""
    y, x = np.mgrid[:H, :W]
    return np.stack([40 + 2 * x, 30 + 3 * y, 60 + x + y + number], axis=2).astype(np.uint8)


def converted(image: NDArray[np.uint8], pixel_format: str) -> bytes:
    """The bytes of FFmpeg's encoder ``rawvideo``."""
    encoder = av.CodecContext.create("rawvideo", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = W, H, pixel_format, Fraction(1, 10)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)
    return b"".join(map(bytes, encoder.encode(frame)))


class Pieces(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1000))


@pytest.mark.parametrize("pixel_format", [name for name in PIXEL_FORMATS if "bayer" not in name])
def test_formats_of_ffmpeg_give_its_colors(pixel_format: str) -> None:
    raw = RawFormat(pixel_format, W, H)
    data = converted(picture(0), pixel_format) + converted(picture(9), pixel_format)
    assert len(data) == 2 * raw.frame_bytes
    frames = list(RawFrames(raw, Pieces(data), (0, 65535)))  # type: ignore[arg-type]
    assert len(frames) == 2 and frames[1].name == "stdin/000001" and frames[1].stamp_ns is None
    for frame, number in zip(frames, (0, 9), strict=True):
        expected = picture(number).astype(int)
        if "gray" in pixel_format:
            weights = [0.299, 0.587, 0.114]
            expected = np.repeat((expected @ weights)[..., None], 3, axis=2)
        exact = pixel_format.startswith(("rgb", "bgr"))
        off = np.abs(frame.image_hwc_rgb - expected)
        assert off.max() <= (1 if exact else 8) and off.mean() < (0.5 if exact else 4)


@pytest.mark.parametrize("pixel_format", [name for name in PIXEL_FORMATS if "bayer" in name])
def test_mosaics_of_sensors_give_their_color(pixel_format: str) -> None:
    """A flat color, made by hand: FFmpeg writes no mosaics."""
    color = dict(zip("rgb", (200, 120, 40), strict=True))
    a, b, c, d = pixel_format.removeprefix("bayer_")[:4]
    tile = np.array([[color[a], color[b]], [color[c], color[d]]])
    mosaic = np.tile(tile, (H // 2, W // 2))
    data = (mosaic * 257).astype("<u2").tobytes() if "16" in pixel_format else mosaic.astype(np.uint8).tobytes()
    (frame,) = RawFrames(RawFormat(pixel_format, W, H), io.BytesIO(data), (0, 65535))
    assert np.abs(frame.image_hwc_rgb[4:-4, 4:-4] - np.array([200, 120, 40])).max() <= 1


def test_a_last_frame_that_is_cut_off_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    data = b"".join(picture(number).tobytes() for number in range(3))
    with caplog.at_level(logging.WARNING, logger="esam_rt"):
        frames = list(RawFrames(RawFormat("rgb24", W, H, fps=30), Pieces(data[:-100])))  # type: ignore[arg-type]
    assert [frame.stamp_ns for frame in frames] == [0, 33_333_333]
    assert f"ended after 2 frames with {H * W * 3 - 100} of the {H * W * 3} bytes" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="esam_rt"):
        assert len(list(RawFrames(RawFormat("rgb24", W, H), io.BytesIO(data)))) == 3
        assert caplog.text == ""
        assert list(RawFrames(RawFormat("rgb24", W, H), io.BytesIO())) == []
    assert "ended after 0 frames" in caplog.text


def test_a_run_reads_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(picture(number).tobytes() for number in range(3))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    options = RunOptions(["-"], tmp_path / "out", write=("labels",), raw=RawFormat("rgb24", W, H, 10))
    summary = run_photos(options, None, FakeSegmenter().open)
    assert summary.done == 3 and summary.exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out" / "labels" / "stdin").iterdir()) == [
        f"{n:06}.png" for n in range(3)
    ]


def test_wrong_options_are_explained() -> None:
    assert raw_format(None, None, 10) is None
    assert raw_format("nv12", "640x480", 10) == RawFormat("nv12", 640, 480, 10)
    for call, message in (
        (lambda: raw_format("rgb24", None, None), "expected --raw and --size together"),
        (lambda: raw_format("rgb24", "640", None), "expected --raw and --size together"),
        (lambda: raw_format("rgb", "4x4", None), r"--raw rgb: unknown\. Did you mean .*-pix_fmt"),
        (lambda: raw_format("nv12", "5x4", None), r"--size 5x4: expected even numbers"),
        (lambda: raw_format("rgb24", "0x4", None), "expected numbers above 0"),
        (lambda: RawFormat("rgb24", 4, 4, 0.0), "--fps 0.0"),
        (lambda: open_source("-"), "expected the source - with --raw"),
        (lambda: open_source("a.jpg", raw=RawFormat("rgb24", 4, 4)), "expected the source - with --raw"),
    ):
        with pytest.raises(SettingsError, match=message):
            call()
