"""Which sample becomes black and which one white, compared with plain NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.errors import SettingsError
from esam_rt.sources import PhotoFolder, read_photo
from esam_rt.sources.sample_range import SampleRange, read_range, to_8_bits
from tests.support.photo_bytes import png

HERE = Path("x.png")
RNG = np.random.default_rng(2)


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_full_keeps_the_high_bits(bits: int) -> None:
    samples = RNG.integers(0, 1 << bits, (700, 3)).astype(np.uint16)
    samples[0] = (1 << bits) - 1
    np.testing.assert_array_equal(to_8_bits(samples, bits, "full", HERE), samples // 2 ** (bits - 8))


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "f4", "f8"])
def test_two_values(dtype: str) -> None:
    samples = (RNG.random((300, 5)) * 30_000).astype(dtype)
    expected = np.clip(np.floor((samples.astype(float) - 5000) / 15_000 * 255 + 0.5), 0, 255)
    found = to_8_bits(samples, 16, (5000, 20_000), HERE)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01  # halves, rounded by chance


def test_auto_cuts_half_a_percent_at_both_ends() -> None:
    samples = np.arange(100_000, dtype=np.uint32).reshape(200, 500)
    found = to_8_bits(samples, 32, "auto", HERE)
    assert (found == 0).mean() == pytest.approx(0.005 + 0.99 / 510, abs=2e-4)
    assert (found == 255).mean() == pytest.approx(0.005 + 0.99 / 510, abs=2e-4)


def test_auto_of_a_large_photo_looks_at_a_part() -> None:
    row = np.arange(3000, dtype=np.uint16)
    found = to_8_bits(np.broadcast_to(row, (3000, 3000)), 16, "auto", HERE)
    low, high = np.percentile(row, (0.5, 99.5))
    expected = np.clip((row - low) / (high - low) * 255, 0, 255)
    assert np.abs(found[1234] - expected).max() <= 1


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.full((2, 2), 7, np.uint16), 0),
        (np.full((2, 2), np.nan, np.float32), 0),
        (np.full((2, 2), 0.5, np.float32), 0),
    ],
)
def test_auto_of_a_plain_photo(samples: NDArray[Any], expected: int) -> None:
    assert (to_8_bits(samples, 16, "auto", HERE) == expected).all()


def test_auto_of_a_dark_photo_with_few_lights() -> None:
    samples = np.zeros((100, 100), np.uint16)
    samples[0, :4] = [51, 102, 153, 255]
    assert to_8_bits(samples, 16, "auto", HERE)[0, :4].tolist() == [51, 102, 153, 255]


def test_odd_floats() -> None:
    samples = np.array([[np.nan, np.inf, -np.inf, 0.5, 1e300, -1e300]])
    assert to_8_bits(samples, 64, (0.0, 1.0), HERE).tolist() == [[0, 255, 0, 128, 255, 0]]
    assert to_8_bits(samples, 64, "auto", HERE).shape == (1, 6)
    assert to_8_bits(samples[:, :4], 64, (-1e308, 1e308), HERE).shape == (1, 4)


def test_a_dark_photo_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.png"

    def logged(largest: int, sample_range: SampleRange = "full", color: int = 0) -> list[str]:
        caplog.clear()
        rows = b"\0" + np.full(3 if color else 1, largest, ">u2").tobytes()
        path.write_bytes(png(1, 1, 16, color, rows))
        read_photo(path, "x", sample_range=sample_range)
        return caplog.messages

    dark = "{}: no sample is above {} of 65535, so it is nearly black; try --range auto."
    assert logged(8191) == [dark.format(path, 8191)]
    assert logged(8191, color=2) == [dark.format(path, 8191)]
    assert logged(4095, color=2) == [dark.format(path, 4095)]
    assert logged(8192) == logged(8192, color=2) == logged(0) == []
    assert logged(100, "auto") == logged(100, (0, 200)) == logged(100, "auto", color=2) == []


@pytest.mark.parametrize("color", [0, 2, 4, 6])
def test_png_of_16_bits_in_every_layout(tmp_path: Path, color: int) -> None:
    """Pillow keeps one byte of each sample in color. Both are read, one after the other."""
    bands = {0: 1, 2: 3, 4: 2, 6: 4}[color]
    samples = RNG.integers(0, 65536, (6, 5, bands)).astype(">u2")
    if color in (4, 6):
        samples[..., -1] = 65535
        samples[0, 0, -1] = 0  # transparent
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    (tmp_path / "x.png").write_bytes(png(5, 6, 16, color, rows))
    colors = samples[..., :3].astype(float) if color in (2, 6) else np.repeat(samples[..., :1], 3, axis=2).astype(float)
    expected = np.clip(np.floor((colors - 1000) / 50_000 * 255 + 0.5), 0, 255)
    if color in (4, 6):
        expected[0, 0] = 255
    found = read_photo(tmp_path / "x.png", "x", sample_range=(1000, 51_000)).image_hwc_rgb
    np.testing.assert_array_equal(found, expected)


def test_the_transparent_color_of_16_bits(tmp_path: Path) -> None:
    from tests.support.photo_bytes import chunk

    key = np.array([300, 40_000, 5], ">u2")
    near = np.array([301, 40_000, 5], ">u2")  # the same high bytes
    data = png(2, 1, 16, 2, b"\0" + key.tobytes() + near.tobytes(), before=chunk(b"tRNS", key.tobytes()))
    (tmp_path / "x.png").write_bytes(data)
    assert read_photo(tmp_path / "x.png", "x").image_hwc_rgb.tolist() == [[[255, 255, 255], [1, 156, 0]]]
    grey = png(2, 1, 16, 0, b"\0" + near[:2].tobytes(), before=chunk(b"tRNS", near[:1].tobytes()))
    (tmp_path / "x.png").write_bytes(grey)
    assert read_photo(tmp_path / "x.png", "x").image_hwc_rgb.tolist() == [[[255] * 3, [156] * 3]]


@pytest.mark.parametrize(
    ("text", "expected"), [("auto", "auto"), ("full", "full"), ("0,4095", (0, 4095)), (" -1.5, 2e3", (-1.5, 2000))]
)
def test_ranges_on_the_command_line(text: str, expected: SampleRange) -> None:
    assert read_range(text) == expected


@pytest.mark.parametrize("text", ["", "min", "5", "5,", "5,5", "9,1", "nan,1", "0,inf", "1,2,3", "AUTO"])
def test_ranges_that_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--range .*expected auto, full, or two numbers that rise, such as 0,4095"):
        read_range(text)


@pytest.mark.parametrize("sample_range", ["min", (1, 0), (0, 1, 2), None, 5])
def test_ranges_in_python_that_are_refused(tmp_path: Path, sample_range: Any) -> None:
    (tmp_path / "x.png").write_bytes(png(1, 1, 8, 0, bytes(2)))
    with pytest.raises(SettingsError, match="sample_range"):
        read_photo(tmp_path / "x.png", "x", sample_range=sample_range)
    with pytest.raises(SettingsError, match="sample_range"):
        PhotoFolder(tmp_path, sample_range=sample_range)


def test_a_folder_reads_with_its_range(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(2, 1, 16, 0, b"\0" + np.array([0, 4095], ">u2").tobytes()))
    (frame,) = PhotoFolder(tmp_path, sample_range=(0, 4095))
    assert frame.image_hwc_rgb[0, :, 0].tolist() == [0, 255]
