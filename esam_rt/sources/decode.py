"""Decodes photo files into upright RGB arrays."""

from __future__ import annotations

import logging
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
from esam_rt.sources.frame import Frame

_log = logging.getLogger("esam_rt")
# The format is told by the first bytes, not by the name. The plugins are called directly because Image.open has its own
# cap on the pixels, global to the process, which would stand in the way of a cap that the caller raises.
_FORMATS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"BM"), BmpImageFile),
)
# What Pillow's decoders raise on damaged files.
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
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRIP = 256  # rows
_WARNINGS_LOCK = threading.Lock()


def read_photo(path: Path, name: str, max_pixels: int = 200_000_000) -> Frame:
    """Read a JPEG, PNG, BMP, TIFF or WebP file as upright 8-bit RGB; `name` becomes the frame's name.

    EXIF orientation is applied; of 16-bit samples the high byte is taken; grey, palette and CMYK become RGB; what is
    transparent shows white; of several pages or frames the first is read. The format is told by the content.

    Raises `InputError` for a file that cannot be opened, is no such photo, is damaged or cut short, has 32-bit samples,
    or has more than `max_pixels` pixels (told by its header, before anything is decoded).
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise InputError(f"{path} is not a file; expected a photo (JPEG, PNG, BMP, TIFF or WebP)")
        with path.open("rb") as file:
            image = _open(file, path)
            _check_size(image, path, max_pixels)
            pixels = _jpeg_pixels(image, file)
            if pixels is not None:
                return Frame(_turned(pixels, _orientation(image)), name)
            with _no_warnings() if isinstance(image, TiffImageFile) else nullcontext():
                image.load()  # of a TIFF, this reads the EXIF data again
            turn = _UPRIGHT.get(_orientation(image))
            return Frame(_to_rgb(image if turn is None else image.transpose(turn), path), name)
    except InputError:
        raise
    except Image.DecompressionBombError as e:  # a cap of its own that Pillow keeps for WebP
        raise InputError(f"{path} is too large ({_one_line(e)}); make it smaller or convert it to JPEG or PNG") from e
    except _DAMAGE as e:
        if isinstance(e, OSError) and e.errno is not None:  # from the system, not from a decoder
            raise InputError(f"{path} cannot be read: {e.strerror}; check the path and its permissions") from e
        raise InputError(
            f"{path} is damaged or cut short ({_one_line(e)}); expected a whole photo, copy it again"
        ) from e


def pixel_count(path: Path) -> int:
    """Pixels of a photo by its header; 0 where that cannot be told, as `read_photo` will say."""
    if not os.path.isfile(path):  # noqa: PTH113 - never raises
        return 0
    try:
        with path.open("rb") as file:
            width, height = _open(file, path).size
    except (InputError, Image.DecompressionBombError, *_DAMAGE):
        return 0
    return width * height


def _open(file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    """Read the header; no pixel is decoded."""
    head = file.read(16)
    if not head:
        raise InputError(f"{path} is empty; expected a photo (JPEG, PNG, BMP, TIFF or WebP), copy it again")
    for magic, plugin in _FORMATS:
        if magic.match(head):
            file.seek(0)
            with _no_warnings():
                return plugin(file, str(path))
    raise InputError(
        f"{path} is not a photo, it begins with {head[:8]!r}; expected JPEG, PNG, BMP, TIFF or WebP, remove it"
    )


def _check_size(image: Image.Image, path: Path, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        found, cap = width * height / 1e6, max_pixels / 1e6
        raise InputError(
            f"{path} is {width} x {height} = {found:.1f} megapixels, the cap is {cap:g}; "
            f"make it smaller or raise the cap with --max-megapixels {-(-width * height // 1_000_000)}"
        )


def _jpeg_pixels(image: ImageFile.ImageFile, file: BinaryIO) -> NDArray[np.uint8] | None:
    """Of a JPEG in color or grey, its pixels as stored: those that Pillow decodes, three bytes each in place of four
    and a copy. None for other photos, and for whatever the decoder warns of: Pillow then decides."""
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
    """EXIF's; broken EXIF data is no reason to refuse whole pixels, and means upright, 1."""
    try:
        with _no_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGE:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """[H, W, 3] turned upright, as Pillow's `_UPRIGHT` turns; the same array where it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a decoded image of any mode."""
    if image.mode.startswith("I;16") or (image.mode == "I" and isinstance(image, PngImageFile)):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"{path} has 32-bit samples; expected 8 or 16 bits, convert it to 8 bits")
    if image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, which are stored inverted
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for y in range(0, image.height, _STRIP):  # the whole at once would be copied twice
        pixels[y : y + _STRIP] = np.asarray(image.crop((0, y, image.width, min(y + _STRIP, image.height))))
    return pixels


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow on odd EXIF data, which changes no pixel. Filters belong to the process: one thread at a time."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
