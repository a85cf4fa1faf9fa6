"""Decodes photo files into upright RGB arrays."""

from __future__ import annotations

import logging
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from esam_rt.errors import InputError
from esam_rt.sources.frame import Frame
from esam_rt.sources.jpeg_files import read_jpeg
from esam_rt.sources.other_files import name_of
from esam_rt.sources.photo_limits import MAX_PIXELS, BoundedFile, check_size
from esam_rt.sources.pillow_pixels import Rgb, no_warnings, orientation_of, rgb_of, upright
from esam_rt.sources.sample_range import SampleRange, check_range

_log = logging.getLogger("esam_rt")
_KINDS = "JPEG, PNG, BMP, TIFF, WebP, AVIF or HEIC"
_HEAD_BYTES = 256
_TIFF_HEADER_BYTES = 24_000_000  # of tags and offsets. Each offset becomes a Python object
_RLE_PIXELS = 16_000_000  # Pillow decodes these BMP files in Python, a byte at a time
Plugin = Callable[[Any], ImageFile.ImageFile]


def _heif(file: Any) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as e:
        raise InputError("HEIC photos need pillow-heif: pip install 'esam-rt[heif]'.") from e
    plugin: Any = pillow_heif.HeifImageFile
    return cast(ImageFile.ImageFile, plugin(file))


# First bytes of each format. The plugins are called directly: Image.open has a limit on the pixels of its own. That
# limit is global to the process, and the caller may want a higher one.
_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
_FORMATS: tuple[tuple[re.Pattern[bytes], Plugin], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"....ftyp(?:.{4})*?avi[fs]", re.DOTALL), AvifImageFile),
    (re.compile(rb"....ftyp(?:.{4})*?(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL), _heif),
)
# Decoders raise all of these on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def read_photo(
    path: Path | str,
    name: str,
    max_pixels: int = MAX_PIXELS,
    sample_range: SampleRange = "full",
    file: BinaryIO | None = None,
) -> Frame:
    """Read a JPEG, PNG, BMP, TIFF, WebP, AVIF or HEIC file as upright 8-bit RGB.

    The first bytes decide the format, not the suffix. EXIF orientation is applied. Grey, palette and CMYK images become
    RGB. Transparent pixels become white. If a file has several pages or frames, the first one is read, and a warning is
    logged. Thumbnails are passed over.

    Args:
        path: The file.
        name: Name of the frame.
        max_pixels: A photo with more pixels is refused before anything is decoded.
        sample_range: Value of black and of white, for samples of more than 8 bits. ``full`` keeps the high byte of
            16-bit samples, and takes floats from 0 to 1. ``auto`` cuts half a percent of the photo's samples at both
            ends. ``(low, high)`` are two values.
        file: The open file, with a descriptor. ``path`` is then only for messages.

    Returns:
        The frame. Its image belongs to the caller alone.

    Raises:
        InputError: If the file cannot be opened, is no photo, is damaged or cut short, is too large, or is of a kind
            that is not read.
        SettingsError: If ``sample_range`` is something else.
    """
    check_range(sample_range)
    try:
        with _opened(path, file) as (bounded, plugin):
            if plugin is None:
                from esam_rt.sources.tiff_files import read_tiff  # tifffile takes 150 ms to import

                return Frame(read_tiff(bounded, path, max_pixels, sample_range), name, disposable=True)
            image = _header(plugin, bounded, path)
            check_size(image.size, bounded, path, max_pixels)
            if isinstance(image, JpegImageFile):
                pixels = read_jpeg(image, bounded, path, sample_range)
            else:
                pixels = _read_other(image, plugin, bounded, path, sample_range)
            return Frame(upright(pixels, orientation_of(image)), name, disposable=True)
    except InputError:
        raise
    except MemoryError as e:
        raise InputError(f"{path} needs more memory than there is. Make it smaller.") from e
    except Image.DecompressionBombError as e:  # Pillow has a limit of its own for TIFF and WebP
        raise InputError(f"{path} is too large ({_one_line(e)}). Make it smaller or convert it to JPEG or PNG.") from e
    except _DAMAGE as e:
        if isinstance(e, OSError) and e.errno is not None:  # from the system, not from a decoder
            raise InputError(f"{path} cannot be read: {e.strerror}; check the path and its permissions.") from e
        raise InputError(f"{path} is damaged or cut short ({_one_line(e)}). Copy the whole photo again.") from e


def pixel_count(path: Path | str, file: BinaryIO | None = None) -> int:
    """Read the number of pixels from a photo's header.

    Args:
        path: The file.
        file: The open file, see `read_photo`.

    Returns:
        Width times height, or 0 if the header cannot be read. `read_photo` then explains why.
    """
    try:
        with _opened(path, file) as (bounded, plugin):
            if plugin is None:
                from esam_rt.sources.tiff_files import tiff_size

                width, height = tiff_size(bounded)
            else:
                width, height = _header(plugin, bounded, path).size
    except (InputError, MemoryError, Image.DecompressionBombError, *_DAMAGE):
        return 0
    return width * height


@contextmanager
def _opened(path: Path | str, file: BinaryIO | None) -> Iterator[tuple[BoundedFile, Plugin | None]]:
    """Open a photo. Yield the file and its plugin, or None for TIFF."""
    if file is None and Path(path).exists() and not Path(path).is_file():  # opening a pipe would wait for ever
        raise InputError(f"{path} is not a file; expected a photo ({_KINDS}).")
    with Path(path).open("rb") if file is None else nullcontext(file) as raw:
        raw.seek(0)
        head = raw.read(_HEAD_BYTES)
        raw.seek(0)
        if not head:
            raise InputError(f"{path} is empty; expected a photo ({_KINDS}). Copy it again.")
        if _TIFF.match(head) and not name_of(head):
            yield BoundedFile(raw, path, _TIFF_HEADER_BYTES), None
            return
        plugin = next((plugin for magic, plugin in _FORMATS if magic.match(head)), None)
        if plugin is None:
            kind = name_of(head)
            found = f"it is {kind}" if kind else f"it begins with {head[:8]!r}"
            remedy = "Convert it to one of them" if kind else "Remove it"
            raise InputError(f"{path} is not a photo that is read, {found}; expected {_KINDS}. {remedy}.")
        yield BoundedFile(raw, path), plugin


def _header(plugin: Plugin, file: BoundedFile | BytesIO, path: Path | str) -> ImageFile.ImageFile:
    """Read the header. No pixel is decoded."""
    file.seek(0)
    try:
        with no_warnings():
            return plugin(file)
    except SyntaxError as e:
        if "cannot handle" in str(e):  # a JPEG of 12 bits, for example
            raise InputError(f"{path} is of a kind that is not read ({_one_line(e)}). Convert it to PNG.") from e
        raise
    except InputError as e:
        raise e if str(path) in str(e) else InputError(f"{path} is not read. {e}") from e


def _read_other(
    image: ImageFile.ImageFile, plugin: Plugin, file: BoundedFile, path: Path | str, sample_range: SampleRange
) -> Rgb:
    """Decode an image that is neither JPEG nor TIFF."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        _log.warning("%s holds %d frames, the first one is read.", path, frames)
    source: BoundedFile | BytesIO = file
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        if image.width * image.height > _RLE_PIXELS:
            raise InputError(f"{path} is a compressed BMP of more than 16 megapixels. Convert it to PNG.")
        file.seek(0)
        source = BytesIO(file.read())
        image = _header(plugin, source, path)
    return rgb_of(image, lambda: _header(plugin, source, path), path, sample_range)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
