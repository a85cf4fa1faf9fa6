"""Decodes TIFF files: which page is the photo, and what its samples mean.

Pillow reads the common kinds. It reads one other kind wrongly (16 bits in planes), and others not at all (floats, more
bands). Their strips and tiles are put together here, if they are not compressed or compressed by deflate.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL.TiffImagePlugin import TiffImageFile

from esam_rt.errors import InputError
from esam_rt.sources import libtiff_errors
from esam_rt.sources.jpeg_files import check_scans
from esam_rt.sources.photo_limits import BoundedFile, check_size
from esam_rt.sources.pillow_pixels import Rgb, no_warnings, on_white, orientation_of, rgb_of, upright
from esam_rt.sources.sample_range import SampleRange, to_8_bits

_log = logging.getLogger("esam_rt")
logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its errors are ours: they are not printed besides

_METADATA_BYTES = 256_000_000  # layers of Photoshop, for example
_MOST_PAGES = 16  # pages that are looked at
_REDUCED, _MASK = 0b1, 0b100  # bits of NewSubfileType
_SMALL = 4  # a page with less than a quarter of the pixels of another one is a thumbnail
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3
_RAW = (32803, 34892)  # photometric: mosaic of a sensor, linear raw
_DNG_VERSION = 50706
_GEO_TAGS = frozenset({33550, 33922, 34264, 34735})  # scale, tie points, transform, keys of the reference system
_JPEG = 7
_PLAIN = (1, 8, 32946)  # not compressed, deflate
_NO_PREDICTOR, _DIFFERENCE, _FLOAT_DIFFERENCE = 1, 2, 3
_ALPHA, _PREMULTIPLIED = 2, 1
_PLANES = 2


def tiff_size(file: BoundedFile) -> tuple[int, int]:
    """Read width and height of the photo in a TIFF file.

    Args:
        file: The file.

    Returns:
        Width and height in pixels.
    """
    with _opened(file) as tiff:
        page = _photo(_pages(tiff))[1]
        return page.imagewidth, page.imagelength


def is_georeferenced(path: Path) -> bool:
    """Tell if a file is a TIFF with a place on the earth.

    Args:
        path: Any path.
    """
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return False
    try:
        with path.open("rb") as given, BoundedFile(given, path) as file, _opened(file) as tiff:
            return not _GEO_TAGS.isdisjoint(_pages(tiff)[0].tags.keys())
    except Exception:  # reading it as a photo tells what is wrong
        return False


def read_tiff(file: BoundedFile, path: Path | str, max_pixels: int, sample_range: SampleRange) -> Rgb:
    """Decode the photo of a TIFF file.

    Thumbnails are passed over. If there are several pages, the first one is read, with a warning.

    Args:
        file: The file.
        path: Its path, for messages.
        max_pixels: A photo with more pixels is refused.
        sample_range: Value of black and of white, for samples of more than 8 bits.

    Returns:
        uint8 [H, W, 3], upright.

    Raises:
        InputError: If its kind is not read, it is too large, or `to_8_bits` raises it.
    """
    with _opened(file) as tiff:
        pages = _pages(tiff)
        index, page = _photo(pages)
        check_size((page.imagewidth, page.imagelength), file, path, max_pixels)
        file.allow(_METADATA_BYTES)
        if page.photometric in _RAW or _DNG_VERSION in pages[0].tags:
            raise InputError(f"{path} is a raw photo of a camera. Develop it to JPEG or PNG first.")
        _check_segments(page, file, path)
        _warn_of_pages(pages, index, path)
        if _is_read_here(page):
            turned = page.tags.valueof("Orientation")
            pixels = _read_samples(page, file, path, sample_range)
            return upright(pixels, turned if isinstance(turned, int) else 1)

        def image_of_pillow() -> TiffImageFile:
            file.seek(0)
            try:
                with no_warnings():
                    image = TiffImageFile(cast(Any, file))
                    image.seek(index)
            except (SyntaxError, LookupError, EOFError) as e:
                if "data organization" in str(e) or not {258, 277}.issubset(page.tags.keys()):
                    raise  # its tags are damaged
                raise InputError(
                    f"{path} is a TIFF of a kind that is not read: {_kind(page)}. Convert it to PNG."
                ) from e
            return image

        bits = page.bitspersample if isinstance(page.bitspersample, int) else 8
        image = image_of_pillow()
        libtiff_errors.forget_errors()
        pixels = rgb_of(image, image_of_pillow, path, sample_range, bits)
        if places := libtiff_errors.errors():
            raise ValueError(f"libtiff: {places[0]}")
        if bits > 8 and page.photometric == _WHITE_IS_ZERO and page.sampleformat == 1:
            pixels = 255 - pixels  # Pillow turns those of up to 8 bits only
        return upright(pixels, orientation_of(image))


@contextmanager
def _opened(file: BoundedFile) -> Iterator[tifffile.TiffFile]:
    try:
        with tifffile.TiffFile(cast(Any, file)) as tiff:
            yield tiff
    except tifffile.TiffFileError as e:  # in older versions not a ValueError
        raise ValueError(str(e)) from e


def _pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Return the first pages."""
    pages: list[tifffile.TiffPage] = []
    for index in range(_MOST_PAGES + 1):
        try:
            pages.append(cast(tifffile.TiffPage, tiff.pages[index]))
        except IndexError:
            break
        except Exception:  # a damaged page after good ones
            if not pages:
                raise
            break
    if not pages:
        raise ValueError("it has no page")
    first = pages[0]
    if (
        first.subfiletype & _REDUCED and first.subifds and first.pages is not None
    ):  # raw photos: a thumbnail, and the photo below it
        pages += [cast(tifffile.TiffPage, first.pages[i]) for i in range(min(len(first.subifds), _MOST_PAGES))]
    return pages


def _photo(pages: list[tifffile.TiffPage]) -> tuple[int, tifffile.TiffPage]:
    """Return the first page that is no thumbnail, no mask and not much smaller than another page."""
    largest = max(_pixels(page) for page in pages)
    for index, page in enumerate(pages):
        if not page.subfiletype & (_REDUCED | _MASK) and _pixels(page) * _SMALL >= largest:
            return index, page
    return 0, pages[0]


def _warn_of_pages(pages: list[tifffile.TiffPage], index: int, path: Path | str) -> None:
    """Log which page is read if there are several photos."""
    photos = [
        page
        for page in pages
        if not page.subfiletype & (_REDUCED | _MASK) and _pixels(page) * _SMALL >= _pixels(pages[index])
    ]
    if len(photos) > 1:
        count = f"more than {_MOST_PAGES}" if len(pages) > _MOST_PAGES else str(len(pages))
        _log.warning("%s holds %s pages, page %d is read.", path, count, index + 1)


def _pixels(page: tifffile.TiffPage) -> int:
    return page.imagewidth * page.imagelength


def _kind(page: tifffile.TiffPage) -> str:
    """Describe how the samples of a page are stored."""

    def name(value: object) -> str:
        return getattr(value, "name", str(value))

    planes = " in planes" if page.planarconfig == _PLANES else ""
    samples = "sample" if page.samplesperpixel == 1 else f"samples{planes}"
    return (
        f"{page.samplesperpixel} {samples} of {page.bitspersample} bits ({name(page.sampleformat)}), photometric "
        f"{name(page.photometric)}, compression {name(page.compression)}"
    )


def _check_segments(page: tifffile.TiffPage, file: BoundedFile, path: Path | str) -> None:
    """Check strips or tiles: their number, and that they do not use the same bytes again and again."""
    most = page.samplesperpixel * (page.imagelength + _pixels(page) // 256 + 1)
    counts = page.databytecounts
    if len(page.dataoffsets) > most or len(counts) > most:
        raise ValueError(f"{max(len(page.dataoffsets), len(counts))} strips or tiles, expected at most {most}")
    if sum(counts) > 2 * file.size:
        raise ValueError(f"its strips or tiles have {sum(counts)} bytes, the file has {file.size}")
    if page.compression == _JPEG:
        for offset, count in zip(page.dataoffsets, counts, strict=False):
            file.seek(offset)
            check_scans(file.read(count), _pixels(page), path)


def _is_read_here(page: tifffile.TiffPage) -> bool:
    """Tell if this module puts the samples together. Pillow reads the other pages."""
    if page.compression not in _PLAIN or page.bitspersample not in (8, 16, 32, 64) or page.fillorder != 1:
        return False
    if page.photometric == _RGB:
        common = page.samplesperpixel == 3
    else:
        common = page.samplesperpixel == 1
        if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            return False
    return not (common and page.bitspersample == 8 and page.sampleformat == 1)


def _read_samples(page: tifffile.TiffPage, file: BoundedFile, path: Path | str, sample_range: SampleRange) -> Rgb:
    """Read colors, or grey, and alpha."""
    bands = page.samplesperpixel
    extra = [int(kind) for kind in page.extrasamples]
    if page.photometric == _RGB and bands == 4 and not extra:
        extra = [_ALPHA]  # as Pillow does
    alphas = ((band, kind) for band, kind in enumerate(extra, bands - len(extra)) if kind in (_ALPHA, _PREMULTIPLIED))
    alpha, alpha_kind = next(alphas, (bands, 0))
    colors = bands - (alpha < bands)
    if page.photometric != _RGB and colors > 4:
        raise InputError(
            f"{path} has {bands} bands, and it does not say which are red, green and blue. Write three of them as an "
            "RGB image."
        )
    if page.photometric != _RGB and colors > 1:
        read = "the first three are read as red, green and blue" if colors > 2 else "the first one is read"
        _log.warning("%s has %d bands and does not say their colors: %s.", path, colors, read)
    used = 3 if colors > 2 else 1
    samples = _assemble(page, file, path, [*range(used), *([alpha] if alpha < bands else [])])
    color = _in_8_bits(samples[..., :used], sample_range, path)
    color = color if used == 3 else np.repeat(color, 3, axis=2)
    if page.photometric == _WHITE_IS_ZERO and page.sampleformat == 1:
        color = 255 - color
    if alpha < bands:
        opacity = samples[..., used]
        if opacity.dtype.kind == "u":
            opacity = (opacity >> (8 * opacity.itemsize - 8)).astype(np.uint8)
        color = on_white(color.copy(), _in_8_bits(opacity, "full", path), alpha_kind == _PREMULTIPLIED)
    return np.ascontiguousarray(color)


def _in_8_bits(samples: NDArray[Any], sample_range: SampleRange, path: Path | str) -> Rgb:
    if samples.dtype.kind == "u" and samples.itemsize == 1:
        return samples
    return to_8_bits(samples, 8 * samples.itemsize, sample_range, path)


def _assemble(page: tifffile.TiffPage, file: BoundedFile, path: Path | str, bands: list[int]) -> NDArray[Any]:
    """Read the strips or tiles of some bands.

    Returns:
        [H, W, bands] in the byte order of this machine.
    """
    kind = {1: "u", 2: "i", 3: "f"}.get(int(page.sampleformat))
    size = page.bitspersample // 8
    if kind is None or (kind == "f" and size == 1):
        raise InputError(f"{path} is a TIFF of a kind that is not read: {_kind(page)}. Convert it to PNG.")
    dtype = np.dtype(f"{page.parent.byteorder}{kind}{size}")
    image = np.empty((page.imagelength, page.imagewidth, len(bands)), dtype.newbyteorder("="))
    file.allow(page.samplesperpixel * size * _pixels(page))
    planar = page.planarconfig == _PLANES
    in_segment = 1 if planar else page.samplesperpixel
    for number, (band, y, x, height, width) in enumerate(_segments(page)):
        if planar and band not in bands:
            continue
        data = _segment(page, file, number, height * width * in_segment * size)
        block = _unpredicted(data, page.predictor, dtype, (height, width, in_segment))
        target = image[y : y + height, x : x + width]
        if planar:
            target[..., bands.index(band)] = block[: target.shape[0], : target.shape[1], 0]
        else:
            target[...] = block[: target.shape[0], : target.shape[1], bands]
    return image


def _segments(page: tifffile.TiffPage) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield band, row, column, height and width of each strip or tile, in the order of the file."""
    rows, columns = page.imagelength, page.imagewidth
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
    else:
        height, width = min(page.rowsperstrip or rows, rows), columns
    if height <= 0 or width <= 0 or height * width > 4 * rows * columns + 1_000_000:
        raise ValueError(f"its tiles have {width} x {height} pixels")
    for band in range(page.samplesperpixel if page.planarconfig == _PLANES else 1):
        for y in range(0, rows, height):
            for x in range(0, columns, width):
                yield band, y, x, height if page.is_tiled else min(height, rows - y), width


def _segment(page: tifffile.TiffPage, file: BoundedFile, number: int, size: int) -> bytes:
    """Read a strip or tile. Inflating stops at its size: a small file can hold any number of zeros."""
    counts = page.databytecounts
    file.seek(page.dataoffsets[number])
    data = file.read(counts[number] if counts else size)
    if page.compression != 1:
        data = zlib.decompressobj().decompress(data, size)
    if len(data) < size:
        raise ValueError(f"strip or tile {number} has {len(data)} bytes, expected {size}")
    return data[:size]


def _unpredicted(data: bytes, predictor: int, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Undo the differences along the rows (TIFF 6.0 section 14, TIFF technical note 3)."""
    if predictor == _NO_PREDICTOR:
        return np.frombuffer(data, dtype).reshape(shape)
    if predictor == _DIFFERENCE and dtype.kind in "ui":
        block = np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
        return np.cumsum(block, axis=1, dtype=block.dtype)
    if predictor == _FLOAT_DIFFERENCE and dtype.kind == "f":
        height, width, bands = shape
        rows = np.frombuffer(data, np.uint8).reshape(height, width * dtype.itemsize, bands)
        rows = np.cumsum(rows, axis=1, dtype=np.uint8).reshape(height, dtype.itemsize, width * bands)
        return np.ascontiguousarray(rows.swapaxes(1, 2)).view(f">f{dtype.itemsize}").reshape(shape)
    raise ValueError(f"predictor {predictor} for {dtype}")
