"""TIFF files: samples of any kind are read rightly, or refused in one true line; the right page is read."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from esam_rt.errors import InputError
from esam_rt.sources.decode import pixel_count, read_photo
from esam_rt.sources.sample_range import SampleRange
from tests.support.photo_bytes import tiff

RNG = np.random.default_rng(5)
WIDE = RNG.integers(0, 65536, (37, 53, 3)).astype(np.uint16)
Array = NDArray[Any]


def read(path: Path, sample_range: SampleRange = "full") -> NDArray[np.uint8]:
    return read_photo(path, "x", sample_range=sample_range).image_hwc_rgb


def refusal(path: Path, sample_range: SampleRange = "full") -> str:
    with pytest.raises(InputError) as caught:
        read(path, sample_range)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message and "damaged" not in message
    return message


def write(path: Path, samples: Array, **options: Any) -> Path:
    tifffile.imwrite(path, samples, **options)
    return path


def stretched(samples: Array, low: float, high: float) -> Array:
    """Linear from black to white, written apart from the reader."""
    return np.clip(np.floor((samples.astype(np.float64) - low) / (high - low) * 255 + 0.5), 0, 255)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 32)}])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_color_of_16_bits_in_every_layout(
    tmp_path: Path, compression: str | None, planar: str, layout: dict[str, Any], predictor: bool, order: str
) -> None:
    """Pillow scrambles those in planes that are not compressed."""
    samples = np.moveaxis(WIDE, 2, 0) if planar == "separate" else WIDE
    options = {"compression": compression, "planarconfig": planar, "byteorder": order, **layout}
    if predictor and compression:
        options["predictor"] = True
    path = write(tmp_path / "x.tif", samples, photometric="rgb", **options)
    np.testing.assert_array_equal(read(path), WIDE >> 8)
    np.testing.assert_array_equal(read(path, (1000.0, 50_000.0)), stretched(WIDE, 1000, 50_000))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_that_only_pillow_can_decompress(tmp_path: Path, mode: str, order: str) -> None:
    """Pillow keeps one byte of each sample in color. Both are read, one after the other."""
    bands = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    samples = np.dstack([WIDE, np.full(WIDE.shape[:2], 65535, np.uint16)])[..., :bands]
    path = tmp_path / "x.tif"
    order_of_cv = {3: [2, 1, 0], 4: [2, 1, 0, 3], 1: [0]}[bands]
    assert cv2.imwrite(str(path), samples[..., order_of_cv], [cv2.IMWRITE_TIFF_COMPRESSION, 5])  # LZW
    color = np.repeat(samples, 3, axis=2) if mode == "L" else samples[..., :3]
    np.testing.assert_array_equal(read(path), color >> 8)
    np.testing.assert_array_equal(read(path, (1000.0, 50_000.0)), stretched(color, 1000, 50_000))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"byteorder": ">"}])
def test_floats_from_0_to_1(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    samples = RNG.random((20, 30)).astype(dtype)
    grey = read(write(tmp_path / "x.tif", samples, **options))
    np.testing.assert_array_equal(grey, np.repeat(stretched(samples, 0, 1)[..., None], 3, axis=2))


def test_floats_with_differences_between_their_bytes(tmp_path: Path) -> None:
    """TIFF technical note 3, as GDAL writes it. The encoder is written from the note."""
    samples = RNG.random((6, 7)).astype("<f4")
    planes = samples.astype(">f4").view(np.uint8).reshape(6, 7, 4).swapaxes(1, 2).reshape(6, 28)
    differences = planes.copy()
    differences[:, 1:] -= planes[:, :-1]
    tags = {256: 7, 257: 6, 258: 32, 259: 8, 262: 1, 277: 1, 278: 6, 317: 3, 339: 3}
    data = zlib.compress(differences.tobytes())
    places = {273: (4, [8]), 279: (4, [len(data)])}
    (tmp_path / "x.tif").write_bytes(tiff({code: (4, [value]) for code, value in tags.items()} | places, data))
    np.testing.assert_array_equal(read(tmp_path / "x.tif")[..., 0], stretched(samples, 0, 1))


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.array([[-1024, 1016]], np.int16), "has signed 16-bit samples from -1024 to 1016"),
        (np.array([[0, 900]], np.uint32), "has unsigned 32-bit samples from 0 to 900"),
        (np.array([[0.5, 812.25]], np.float32), "has float 32-bit samples from 0.5 to 812.25"),
        (np.array([[-0.25, 1]], np.float64), "has float 64-bit samples from -0.25 to 1"),
    ],
)
def test_samples_of_unknown_range(tmp_path: Path, samples: Array, says: str) -> None:
    path = write(tmp_path / "x.tif", samples, photometric="minisblack")
    message = refusal(path)
    assert says in message and "Give --range auto, or --range LOW,HIGH." in message
    low, high = float(samples.min()), float(samples.max())
    np.testing.assert_array_equal(read(path, (low, high))[0, :, 0], [0, 255])
    assert read(path, "auto").shape == (1, 2, 3)


@pytest.mark.parametrize("turned", [1, 3, 6, 8, 99])
def test_16_bits_that_are_turned(tmp_path: Path, turned: int) -> None:
    path = write(tmp_path / "x.tif", WIDE, photometric="rgb", extratags=[(274, "H", 1, turned, True)])
    turns = {1: 0, 3: 2, 6: -1, 8: 1, 99: 0}[turned]  # quarter turns counterclockwise
    np.testing.assert_array_equal(read(path), np.rot90(WIDE >> 8, turns))


def test_floats_that_nothing_decompresses(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    assert cv2.imwrite(str(path), RNG.random((5, 6, 3)).astype(np.float32), [cv2.IMWRITE_TIFF_COMPRESSION, 5])  # LZW
    message = refusal(path)
    assert "3 samples of 32 bits (IEEEFP), photometric RGB, compression LZW" in message
    assert cv2.imwrite(str(path), np.full((5, 6), 0.25, np.float32), [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert (read(path) == 64).all()  # Pillow reads one band


def test_white_is_zero(tmp_path: Path) -> None:
    for compression in (None, "deflate"):
        path = write(tmp_path / "x.tif", WIDE[..., 0], photometric="miniswhite", compression=compression)
        np.testing.assert_array_equal(read(path)[..., 1], 255 - (WIDE[..., 0] >> 8))


def test_12_bits_are_read_as_12_bits(tmp_path: Path) -> None:
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1, 273: 8, 279: 6}
    data = bytes([0x00, 0x00, 0x10, 0x80, 0x0F, 0xFF])  # 0x000, 0x010, 0x800, 0xFFF
    (tmp_path / "x.tif").write_bytes(tiff({code: (4, [value]) for code, value in tags.items()}, data))
    np.testing.assert_array_equal(read(tmp_path / "x.tif")[0, :, 0], [0, 1, 128, 255])


BYTES = RNG.integers(0, 256, (21, 34, 8)).astype(np.uint8)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_more_bands_than_colors(tmp_path: Path, planar: str, caplog: pytest.LogCaptureFixture) -> None:
    def file(bands: int, photometric: str, extra: list[str] | None = None) -> Path:
        samples = BYTES[..., :bands]
        samples = np.moveaxis(samples, 2, 0) if planar == "separate" else samples
        return write(tmp_path / "x.tif", samples, photometric=photometric, planarconfig=planar, extrasamples=extra)

    np.testing.assert_array_equal(read(file(5, "rgb", ["unspecified"] * 2)), BYTES[..., :3])
    np.testing.assert_array_equal(read(file(4, "rgb", ["unspecified"])), BYTES[..., :3])
    assert not caplog.records
    for bands in (3, 4):
        np.testing.assert_array_equal(read(file(bands, "minisblack", ["unspecified"] * (bands - 1))), BYTES[..., :3])
        assert f"has {bands} bands and does not say their colors" in caplog.text
    np.testing.assert_array_equal(read(file(2, "minisblack", ["unspecified"]))[..., 2], BYTES[..., 0])
    for bands in (5, 6, 8):
        message = refusal(file(bands, "minisblack", ["unspecified"] * (bands - 1)))
        assert f"has {bands} bands, and it does not say which are red, green and blue" in message


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_laid_over_white(tmp_path: Path, kind: str, dtype: type[np.unsignedinteger[Any]]) -> None:
    top = np.iinfo(dtype).max
    alpha = RNG.integers(0, 256, (9, 11, 1))
    color = RNG.integers(0, 256, (9, 11, 3))
    stored = np.floor(color * alpha / 255) if kind == "assocalpha" else color
    samples = (np.dstack([stored, alpha]) * (top / 255)).astype(dtype)
    path = write(tmp_path / "x.tif", samples, photometric="rgb", extrasamples=[kind])
    expected = color * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(read(path) - expected).max() <= 2


def test_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", np.ones((4, 4), np.complex64), photometric="minisblack")
    assert "is a TIFF of a kind that is not read: 1 sample of 64 bits (COMPLEX" in refusal(path)
    tags = {256: 4, 257: 4, 258: 8, 259: 34712, 262: 1, 277: 1, 278: 4, 273: 8, 279: 16}
    path.write_bytes(tiff({code: (4, [value]) for code, value in tags.items()}, bytes(16)))
    assert "compression JPEG2000" in refusal(path)
    tags |= {259: 1, 262: 32803}
    path.write_bytes(tiff({code: (4, [value]) for code, value in tags.items()}, bytes(16)))
    assert "is a raw photo of a camera. Develop it" in refusal(path)


def test_a_raw_photo_is_not_read_as_its_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "x.dng"
    with tifffile.TiffWriter(path) as file:
        file.write(grey(1, 5, 8), subfiletype=1, photometric="minisblack", subifds=1, metadata=None)
        file.write(grey(2).astype(np.uint16), photometric="cfa", metadata=None)
    assert "is a raw photo of a camera. Develop it" in refusal(path)
    path = write(tmp_path / "y.dng", grey(1), extratags=[(50706, "B", 4, bytes([1, 4, 0, 0]), True)])
    assert "is a raw photo of a camera. Develop it" in refusal(path)
    (tmp_path / "z.cr2").write_bytes(b"II*\0\x10\0\0\0CR\x02\0" + bytes(100))
    assert "it is a raw file of a camera" in refusal(tmp_path / "z.cr2")


def test_a_photo_below_its_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(grey(1, 5, 8), subfiletype=1, photometric="minisblack", subifds=1, metadata=None)
        file.write(grey(2).astype(np.uint16) << 8, photometric="minisblack", metadata=None)
    assert read(path).shape == (20, 30, 3)
    assert (read(path) == 2).all()


# --- pages -----------------------------------------------------------------------------------------------------------


def grey(value: int, height: int = 20, width: int = 30) -> NDArray[np.uint8]:
    return np.full((height, width), value, np.uint8)


def pages(path: Path, *pages: tuple[NDArray[np.uint8], int]) -> Path:
    """Pages with their subfile types."""
    with tifffile.TiffWriter(path) as file:
        for page, kind in pages:
            file.write(page, subfiletype=kind, photometric="minisblack", metadata=None)
    return path


def test_the_first_page_of_a_stack_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pages(tmp_path / "x.tif", *((grey(value), 0) for value in (10, 20, 30)))
    assert read(path)[0, 0, 0] == 10
    assert f"{path} holds 3 pages, page 1 is read." in caplog.messages
    path = pages(tmp_path / "y.tif", *((grey(value), 0) for value in range(40)))
    assert read(path)[0, 0, 0] == 0
    assert f"{path} holds more than 16 pages, page 1 is read." in caplog.messages


@pytest.mark.parametrize("kind", [0, 1])
def test_a_thumbnail_in_front_is_passed_over(tmp_path: Path, kind: int, caplog: pytest.LogCaptureFixture) -> None:
    path = pages(tmp_path / "x.tif", (grey(1, 5, 8), kind), (grey(2), 0), (grey(3, 10, 15), 1))
    assert read(path).shape == (20, 30, 3)
    assert read(path)[0, 0, 0] == 2
    assert pixel_count(path) == 600
    assert not caplog.records


def test_masks_and_pyramids_are_no_pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pages(tmp_path / "x.tif", (grey(1), 0), (grey(2, 10, 15), 1), (grey(1).astype(bool), 4))
    assert read(path)[0, 0, 0] == 1
    assert not caplog.records


def test_a_second_page_in_color_is_read_by_pillow(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    photo = Image.fromarray(BYTES[..., :3])
    Image.new("RGB", (4, 3)).save(path, save_all=True, append_images=[photo], compression="tiff_lzw")
    np.testing.assert_array_equal(read(path), BYTES[..., :3])


def test_pages_in_a_circle(tmp_path: Path) -> None:
    path = pages(tmp_path / "x.tif", (grey(7), 0))
    data = bytearray(path.read_bytes())
    at = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[at : at + 2], "little")
    data[at + 2 + 12 * count : at + 6 + 12 * count] = at.to_bytes(4, "little")
    path.write_bytes(data)
    assert read(path)[0, 0, 0] == 7


# --- what the libraries print ----------------------------------------------------------------------------------------


def test_damaged_fax_data_is_not_half_a_picture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff prints an error of its own, and returns what it has."""
    path = tmp_path / "x.tif"
    Image.fromarray(np.random.default_rng(1).random((90, 200)) > 0.5).save(path, compression="group4")
    whole = read(path)
    data = path.read_bytes()
    refused = 0
    for at in range(10, len(data) - 300, len(data) // 60):
        path.write_bytes(data[:at] + b"\0\0\0\0" + data[at + 4 :])
        try:
            assert read(path).shape == whole.shape
        except InputError as e:
            refused += "damaged" in str(e)
    assert refused > 5
    assert capfd.readouterr().err == ""


def test_loggers_of_the_libraries_are_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a handler of the user, Python prints errors of other loggers on stderr."""
    path = write(tmp_path / "x.tif", BYTES, photometric="minisblack", planarconfig="contig")
    data = path.read_bytes()
    root, handlers = logging.getLogger(), logging.getLogger().handlers
    root.handlers = []
    try:
        with pytest.raises(InputError):
            read(path)
        path.write_bytes(data[:-2])
        with pytest.raises(InputError):
            read(path)
    finally:
        root.handlers = handlers
    assert capfd.readouterr().err == ""
