"""One photo never ends a run, nor costs minutes or gigabytes: whatever it announces, and however large its file is."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from esam_rt.errors import InputError
from esam_rt.sources.decode import pixel_count, read_photo
from esam_rt.sources.photo_limits import BoundedFile
from tests.support.photo_bytes import chunk, jpeg_segments, png, tiff

GIGABYTES = 200 << 30
Counter = Callable[[], int]


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts what is read through `BoundedFile`; each call counts for itself."""
    total = 0
    read = BoundedFile.read

    def counted(self: BoundedFile, size: int | None = -1) -> bytes:
        nonlocal total
        data = read(self, size)
        total += len(data)
        return data

    monkeypatch.setattr(BoundedFile, "read", counted)
    return lambda: total


def refusal(path: Path, max_pixels: int = 200_000_000) -> str:
    with pytest.raises(InputError) as caught:
        read_photo(path, "name", max_pixels)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def jpeg(width: int = 40, height: int = 24, **options: object) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(data, "JPEG", quality=90, **options)
    return data.getvalue()


def test_a_photo_of_one_endless_row(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(100_000_000, 1, 8, 0, bytes(100_000_001)))
    assert "100000000 x 1 pixels, a side has at most 65500" in refusal(path)
    path.write_bytes(png(65_500, 1, 8, 0, bytes(65_501)))
    assert read_photo(path, "x").image_hwc_rgb.shape == (1, 65_500, 3)


def test_few_bytes_for_many_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(14_000, 14_000, 1, 0, bytes(1751 * 14_000)))
    assert path.stat().st_size < 30_000
    assert "too few for a photo" in refusal(path)
    webp = tmp_path / "x.webp"  # a plain area of any size has 34 bytes
    Image.new("RGB", (6000, 6000)).save(webp, lossless=True, quality=0, method=0)
    assert "too few for a photo" in refusal(webp)


def test_a_blank_page_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.webp"
    Image.new("RGB", (4000, 3000), "red").save(path, lossless=True, quality=0, method=0)
    assert path.stat().st_size < 100
    assert (read_photo(path, "x").image_hwc_rgb == (255, 0, 0)).all()


@pytest.mark.parametrize("head", [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"BM", b"RIFF"])
def test_sparse_files(tmp_path: Path, bytes_read: Counter, head: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(head)
    os.truncate(path, GIGABYTES)
    refusal(path)
    assert bytes_read() < 300_000_000
    assert pixel_count(path) == 0


@pytest.mark.parametrize("form", ["RIFF", "avif"])
def test_sparse_files_of_plugins_that_read_all(tmp_path: Path, bytes_read: Counter, form: str) -> None:
    path = tmp_path / "x"
    size = struct.pack("<I", 4_000_000_000)
    path.write_bytes(b"RIFF" + size + b"WEBPVP8 " + size if form == "RIFF" else b"\0\0\0\x1cftypavif" + bytes(16))
    os.truncate(path, GIGABYTES)
    assert "holds more data than a photo of its size needs" in refusal(path)
    assert bytes_read() < 1_000_000
    assert pixel_count(path) == 0


def test_a_jpeg_with_zeros_after_it(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg())
    whole = read_photo(path, "x").image_hwc_rgb
    os.truncate(path, 4 << 30)
    tracemalloc.start()
    np.testing.assert_array_equal(read_photo(path, "x").image_hwc_rgb, whole)
    assert tracemalloc.get_traced_memory()[1] < 200_000_000
    tracemalloc.stop()


def test_a_png_with_a_huge_chunk(tmp_path: Path, bytes_read: Counter) -> None:
    path = tmp_path / "x.png"
    rows = bytes(11 * 10)
    data = png(10, 10, 8, 0, rows)[:33] + struct.pack(">I", 2_000_000_000) + b"tEXt"
    path.write_bytes(data)
    os.truncate(path, 3 << 30)
    assert "holds more data" in refusal(path)
    assert bytes_read() < 300_000_000


def test_pieces_cost_as_much_as_bytes(tmp_path: Path, bytes_read: Counter) -> None:
    """Each chunk of 12 bytes is a round in Python: files of nothing else would be read for minutes."""
    path = tmp_path / "x.png"
    path.write_bytes(png(4, 4, 8, 0, bytes(20), before=chunk(b"teSt", b"") * 100_000))
    assert "holds more data" in refusal(path)
    path.write_bytes(png(4, 4, 8, 0, bytes(20), before=chunk(b"teSt", b"") * 1000))
    assert read_photo(path, "x").image_hwc_rgb.shape == (4, 4, 3)


def test_a_jpeg_of_many_scans(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    data = jpeg(400, 400, progressive=True)
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:-2] + data[last:-2] * 2000 + data[-2:])
    assert "is a JPEG of 101 scans" in refusal(path) or "scans" in refusal(path)
    path.write_bytes(data)
    assert read_photo(path, "x").image_hwc_rgb.shape == (400, 400, 3)


@pytest.mark.parametrize(("side", "zeros"), [(11_000, 400_000), (4000, 0)])
def test_scans_are_counted_by_pixels_too(tmp_path: Path, side: int, zeros: int) -> None:
    """Twenty passes over a hundred megapixels take as long as a thousand over two. Few bytes get fewer."""
    path = tmp_path / "x.jpg"
    data = bytearray(jpeg(400, 400, progressive=True))
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    last = data.rindex(b"\xff\xda")
    path.write_bytes(bytes(data[:-2]) + bytes(data[last:-2]) * 10 + bytes(zeros))
    assert "scans" in refusal(path)


def test_markers_in_metadata_are_no_scans(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    data = jpeg()
    comment = jpeg_segments([(0xFE, b"\xff\xda\0\x08" * 500)])
    path.write_bytes(data[:2] + comment + data[2:] + b"\xff\xda\0\x08" * 500)  # and after the end of the image
    assert read_photo(path, "x").image_hwc_rgb.shape == (24, 40, 3)


def test_a_jpeg_of_many_segments(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    data = jpeg()
    at = data.index(b"\xff\xda")
    path.write_bytes(data[:at] + jpeg_segments([(0xFE, b"")]) * 60_000 + data[at:])
    refusal(path)
    path.write_bytes(data[:-2] + jpeg_segments([(0xFE, b"")]) * 110_000 + data[-2:])  # after the pixels
    assert "more than 100000 segments" in refusal(path)


def page(
    width: int, height: int, offsets: list[int], counts: list[int], **more: int
) -> dict[int, tuple[int, list[int]]]:
    """Tags of a grey page of 16 bits."""
    codes = {"compression": 259, "rows": 278, "bits": 258, "samples": 277, "photometric": 262, "predictor": 317}
    tags = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 277: 1, 278: height}
    tags |= {codes[name]: value for name, value in more.items()}
    return {code: (4, [value]) for code, value in tags.items()} | {273: (4, offsets), 279: (4, counts)}


def test_a_tiff_whose_strips_share_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    data = bytes(4000)
    path.write_bytes(tiff(page(100, 1000, [8] * 1000, [4000] * 1000, rows=1), data))
    assert "its strips or tiles have 4000000 bytes" in refusal(path)


def test_a_tiff_of_a_tile_a_pixel(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tags = page(100, 100, [8] * 10_000, [2] * 10_000) | {322: (4, [1]), 323: (4, [1])}
    tags |= {324: tags.pop(273), 325: tags.pop(279)}
    path.write_bytes(tiff(tags, bytes(20_000)))
    assert "10000 strips or tiles" in refusal(path)


def test_inflating_a_strip_stops_at_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    bomb = zlib.compress(bytes(100_000_000), 1)
    path.write_bytes(tiff(page(10, 10, [8], [len(bomb)], compression=8), bomb))
    tracemalloc.start()
    assert (read_photo(path, "x").image_hwc_rgb == 0).all()
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_tiff_with_a_huge_tile(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tags = page(10, 10, [8], [200]) | {322: (4, [60_000]), 323: (4, [60_000])}
    tags |= {324: tags.pop(273), 325: tags.pop(279)}
    path.write_bytes(tiff(tags, bytes(200)))
    assert "its tiles have 60000 x 60000 pixels" in refusal(path)


def test_a_tiff_with_a_huge_table_of_strips(tmp_path: Path, bytes_read: Counter) -> None:
    path = tmp_path / "x.tif"
    data = bytearray(tiff(page(4, 4, [8, 8], [16, 16], rows=2), bytes(32)))
    at = data.index(struct.pack("<HHI", 273, 4, 2))
    data[at : at + 12] = struct.pack("<HHII", 273, 4, 100_000_000, 1000)
    path.write_bytes(data)
    os.truncate(path, 1 << 30)
    assert "holds more data" in refusal(path)
    assert bytes_read() < 30_000_000


def test_a_compressed_bmp_is_bounded(tmp_path: Path) -> None:
    """Pillow decodes it byte by byte in Python."""
    path = tmp_path / "x.bmp"
    header = struct.pack("<2sIHHI", b"BM", 200_000, 0, 0, 14 + 40 + 8)
    size = struct.pack("<IiiHHIIiiII", 40, 5000, 5000, 1, 8, 1, 0, 0, 0, 2, 0)
    path.write_bytes(header + size + bytes(8) + b"\0\0" * 100_000)
    assert "compressed BMP of more than 16 megapixels" in refusal(path)


def test_a_file_of_raw_pixels_is_read_by_its_size(tmp_path: Path) -> None:
    """The bound leaves room for the largest photos: 8 bytes a pixel, and metadata."""
    path = tmp_path / "x.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 400 * 8 + 1), np.uint8)
    noise[:, 0] = 0
    path.write_bytes(png(400, 300, 16, 6, noise.tobytes()))
    assert read_photo(path, "x").image_hwc_rgb.shape == (300, 400, 3)


@pytest.mark.parametrize("function", ["rgb_of", "read_jpeg"])
def test_out_of_memory_is_the_photos_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    def full(*args: object) -> None:
        raise MemoryError

    path = tmp_path / "x"
    path.write_bytes(jpeg() if function == "read_jpeg" else png(2, 2, 8, 0, bytes(6)))
    monkeypatch.setattr(f"esam_rt.sources.decode.{function}", full)
    assert "needs more memory than there is" in refusal(path)


def test_out_of_memory_in_a_header_is_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise MemoryError

    (tmp_path / "x").write_bytes(jpeg())
    monkeypatch.setattr("esam_rt.sources.decode._header", full)
    assert pixel_count(tmp_path / "x") == 0
