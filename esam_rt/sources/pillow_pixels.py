"""Pixels of an image that Pillow decodes: to RGB, upright, with all bits of its samples."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from esam_rt.errors import InputError
from esam_rt.sources.sample_range import SampleRange, to_8_bits, warn_if_dark

Rgb = NDArray[np.uint8]

logging.getLogger("PIL").addHandler(logging.NullHandler())  # its errors are ours: they are not printed besides
_STRIP = 256  # rows
_WARNINGS_LOCK = threading.Lock()
# Pillow keeps one byte of a 16-bit sample in color. This is the raw mode that keeps the other one.
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def rgb_of(
    image: ImageFile.ImageFile,
    again: Callable[[], ImageFile.ImageFile],
    path: Path | str,
    sample_range: SampleRange,
    bits: int = 16,
) -> Rgb:
    """Decode an image of any mode.

    Args:
        image: The image, not decoded yet.
        again: Opens it once more.
        path: Its path, for messages.
        sample_range: Value of black and of white, for samples of more than 8 bits.
        bits: Bits of a sample that are in use, if they are more than 8.

    Returns:
        uint8 [H, W, 3], not turned. Transparent pixels are white.

    Raises:
        InputError: If the range is ``full`` and it is unknown how far the samples reach.
    """
    raw_mode = _raw_mode(image)
    with no_warnings():  # for a TIFF, this reads the EXIF data again
        image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _wide_grey(image, path, sample_range, bits)
    if ";16" in raw_mode:
        if sample_range != "full" or isinstance(image.info.get("transparency"), tuple):
            return _wide_color(image, again(), raw_mode, path, sample_range)
        bands = image.getextrema()[:3]  # of the high bytes
        warn_if_dark(max(int(high) << 8 | 255 for _, high in bands if isinstance(high, int)), 16, path)  # type: ignore[misc]
    if image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info:
        return _strips(ImageChops.invert(image))  # Pillow inverts every CMYK JPEG; only Adobe's are stored inverted
    return _strips(image)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8. Broken EXIF data counts as 1, upright: the pixels are whole."""
    try:
        with no_warnings():
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises a dozen types on broken EXIF data
        return 1
    return orientation if isinstance(orientation, int) else 1


def upright(pixels: Rgb, orientation: int) -> Rgb:
    """Turn an image upright (EXIF 2.32, tag 274).

    Args:
        pixels: uint8 [H, W, 3].
        orientation: 1 to 8. Any other value counts as 1.

    Returns:
        The turned image, contiguous. The same array if it is upright already.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def on_white(color: Rgb, alpha: NDArray[np.uint8], premultiplied: bool = False) -> Rgb:
    """Lay an image over white.

    Args:
        color: uint8 [H, W, 3]. It is changed.
        alpha: uint8 [H, W]. 0 is transparent.
        premultiplied: If the color was multiplied by alpha before.

    Returns:
        ``color``.
    """
    for y in range(0, len(color), _STRIP):
        a = alpha[y : y + _STRIP, :, None].astype(np.uint32)
        rows = color[y : y + _STRIP].astype(np.uint32) * (255 if premultiplied else a) + 255 * (255 - a)
        color[y : y + _STRIP] = np.minimum((rows + 127) // 255, 255)
    return color


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence Pillow's warnings about odd EXIF data. Warning filters are global, so one thread does it at a time."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return how the samples are stored, for example ``RGB;16B``. Empty if Pillow does not say it."""
    if not image.tile:
        return ""
    args = image.tile[0].args
    return str(args[0] if isinstance(args, tuple) else args)


def _wide_grey(image: Image.Image, path: Path | str, sample_range: SampleRange, bits: int) -> Rgb:
    samples = np.asarray(image)
    if image.format == "PNG":
        samples = samples.astype(np.uint16)  # older versions of Pillow have 32 bits
    grey = to_8_bits(samples, bits, sample_range, path)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return np.repeat(grey[..., None], 3, axis=2)


def _wide_color(
    image: Image.Image, again: ImageFile.ImageFile, raw_mode: str, path: Path | str, sample_range: SampleRange
) -> Rgb:
    """Decode the other byte of each sample, and join both."""
    layout, _, order = raw_mode.partition(";16")
    if layout not in ("RGB", "RGBX", "RGBA", "LA") or len(again.tile) != 1:
        raise InputError(f"{path} stores 16 bits as {raw_mode}, only --range full reads it. Convert it to 8 bits.")
    tile = again.tile[0]
    raw_mode = "RGBA" if layout == "LA" else f"{layout};16{_OTHER_BYTE[order]}"
    again.tile = [tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)]
    with no_warnings():
        again.load()
    high, low = np.asarray(image), np.asarray(again)
    if layout == "LA":  # its four bytes were read as red, green, blue and alpha
        high, low = low[..., [0, 0, 0, 2]], low[..., [1, 1, 1, 3]]
    samples = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
    color = to_8_bits(samples, 16, sample_range, path)
    key = image.info.get("transparency")
    if isinstance(key, tuple):
        color[(samples == key).all(axis=2)] = 255
    return on_white(color, high[..., 3]) if high.shape[2] == 4 else color


def _strips(image: Image.Image) -> Rgb:
    """Convert strip by strip: the whole image at once would be copied twice, or more."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for y in range(0, image.height, _STRIP):
        strip = image.crop((0, y, image.width, min(y + _STRIP, image.height)))
        if image.has_transparency_data:
            rgba = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        pixels[y : y + _STRIP] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels
