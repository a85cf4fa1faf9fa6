"""Decodes photo files into upright RGB arrays."""

from __future__ import annotations

import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from esam_rt.errors import InputError
from esam_rt.rounding import ceil_div
from esam_rt.sources.frame import Frame

MAX_PIXELS = 200_000_000  # of a photo, unless the caller sets another limit
_KINDS = "JPEG, PNG, BMP, TIFF or WebP"
# First bytes of each format. The plugins are called directly: Image.open has a limit on the pixels of its own. That
# limit is global to the process, and the caller may want a higher one.
_FORMATS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM"), BmpImageFile),
)
# Pillow's decoders raise all of these on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_STRIP = 256  # rows
_WARNINGS_LOCK = threading.Lock()


def read_photo(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> Frame:
    """Read a JPEG, PNG, BMP, TIFF or WebP file as upright 8-bit RGB.

    The first bytes decide the format, not the suffix. EXIF orientation is applied. The high byte of 16-bit samples is
    used. Grey, palette and CMYK images become RGB. Transparent pixels become white. If a file has several pages or
    frames, the first one is read.

    Args:
        path: The file.
        name: Name of the frame.
        max_pixels: A photo with more pixels is refused before anything is decoded.

    Returns:
        The frame. Its image belongs to the caller alone.

    Raises:
        InputError: If the file cannot be opened, is no photo, is damaged or cut short, has 32-bit samples, or is too
            large.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise InputError(f"{path} is not a file; expected a photo ({_KINDS}).")
        with path.open("rb") as file:
            image = _open(file, path)
            _check_size(image, path, max_pixels)
            pixels = _jpeg_pixels(image, file)
            if pixels is None:
                with _no_warnings() if isinstance(image, TiffImageFile) else nullcontext():
                    image.load()  # for a TIFF, this reads the EXIF data again
                pixels = _to_rgb(image, path)
            return Frame(_upright(pixels, _orientation(image)), name, disposable=True)
    except InputError:
        raise
    except Image.DecompressionBombError as e:  # Pillow has a limit of its own for WebP
        raise InputError(f"{path} is too large ({_one_line(e)}). Make it smaller or convert it to JPEG or PNG.") from e
    except _DAMAGE as e:
        if isinstance(e, OSError) and e.errno is not None:  # from the system, not from a decoder
            raise InputError(f"{path} cannot be read: {e.strerror}; check the path and its permissions.") from e
        raise InputError(f"{path} is damaged or cut short ({_one_line(e)}). Copy the whole photo again.") from e


def pixel_count(path: Path) -> int:
    """Read the number of pixels from a photo's header.

    Args:
        path: The file.

    Returns:
        Width times height, or 0 if the header cannot be read. `read_photo` then explains why.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - never raises
        return 0
    try:
        with path.open("rb") as file:
            width, height = _open(file, path).size
    except (InputError, Image.DecompressionBombError, *_DAMAGE):
        return 0
    return width * height


def _open(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    """Read the header. No pixel is decoded."""
    head = file.read(16)
    if not head:
        raise InputError(f"{path} is empty; expected a photo ({_KINDS}). Copy it again.")
    for magic, plugin in _FORMATS:
        if magic.match(head):
            file.seek(0)
            with _no_warnings():
                return plugin(file, str(path))
    raise InputError(f"{path} is not a photo, it begins with {head[:8]!r}; expected {_KINDS}. Remove it.")


def _check_size(image: Image.Image, path: Path, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        found, cap = width * height / 1e6, max_pixels / 1e6
        raise InputError(
            f"{path} is {width} x {height} = {found:.1f} megapixels, the cap is {cap:g}. "
            f"Make it smaller or raise the cap with --max-megapixels {ceil_div(width * height, 1_000_000)}."
        )


def _jpeg_pixels(image: ImageFile.ImageFile, file: BinaryIO) -> NDArray[np.uint8] | None:
    """Decode a JPEG in color or grey with less memory than Pillow: three bytes a pixel, not four and a copy.

    The pixels equal those of Pillow. Return None for other photos, and if the decoder warns: Pillow then decides.
    """
    if not isinstance(image, JpegImageFile) or image.mode not in ("RGB", "L"):
        return None
    file.seek(0)
    data = file.read()
    file.seek(0)
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", strict=True), np.uint8)
    except ValueError:
        return None


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Broken EXIF data counts as 1, upright: the pixels are whole."""
    try:
        with _no_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn [H, W, 3] upright (EXIF 2.32, tag 274). Return the same array if it is upright already."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Convert a decoded image of any mode to uint8 [H, W, 3]."""
    if image.mode.startswith("I;16") or (image.mode == "I" and isinstance(image, PngImageFile)):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"{path} has 32-bit samples; expected 8 or 16 bits. Convert it to 8 bits.")
    if image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow inverts every CMYK JPEG; only Adobe's are stored inverted
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for y in range(0, image.height, _STRIP):  # the whole image at once would be copied twice
        pixels[y : y + _STRIP] = np.asarray(image.crop((0, y, image.width, min(y + _STRIP, image.height))))
    return pixels


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about odd EXIF data. Warning filters are global, so one thread does it at a time."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
