"""A subject of `trials`: photos of all formats, changed, and read by `read_photo`."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import tifffile
from PIL import Image, features

from esam_rt.errors import InputError
from esam_rt.sources.decode import read_photo
from tests.support.mutations import mutated
from tests.support.trials import Limits

# A photo has at most a megapixel here. That bounds memory: 4 bytes a sample, and some copies.
MAX_PIXELS = 1_000_000
LIMITS = Limits(cpu_s=5, growth_mb=100, address_space_mb=8192)


@cache
def corpus() -> tuple[bytes, ...]:
    """Small photos: formats, modes, compressions."""
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (24, 32, 3), np.uint8)
    smooth = np.linspace(0, 255, 24 * 32 * 3).reshape(24, 32, 3).astype(np.uint8)
    sixteen = random.integers(0, 1 << 16, (24, 32), np.uint16)
    turned = Image.Exif()
    turned[274] = 6
    color, grey = Image.fromarray(smooth), Image.fromarray(smooth[..., 0])
    noise = Image.fromarray(rgb)
    clear = color.convert("RGBA")
    clear.putalpha(grey)
    found = [
        _saved(color, "JPEG"),
        _saved(noise, "JPEG", progressive=True, exif=turned),
        _saved(grey, "JPEG", restart_marker_blocks=2),
        _saved(color.convert("CMYK"), "JPEG"),
        _saved(color, "PNG"),
        _saved(noise, "PNG", exif=turned),
        _saved(clear, "PNG"),
        _saved(color.quantize(16), "PNG"),
        _saved(grey.convert("1"), "PNG"),
        _saved(Image.fromarray(sixteen), "PNG"),
        _saved(color, "BMP"),
        _saved(color.quantize(16), "BMP"),
        _saved(color, "WEBP"),
        _saved(clear, "WEBP", lossless=True),
        _saved(color, "WEBP", save_all=True, append_images=[noise]),
    ]
    kinds = ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    found += [_saved(color, "TIFF", compression=kind) for kind in kinds]
    found.append(_saved(grey.convert("1"), "TIFF", compression="group4"))
    arrays = (sixteen, sixteen.astype(np.float32), np.stack([sixteen] * 3), rgb.astype(np.int16)[..., 0])
    found += [_tiff(array, photometric="minisblack") for array in arrays]
    found.append(_tiff(rgb, photometric="rgb", tile=(16, 16)))
    found.append(_tiff(np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate"))
    found.append(_tiff(rgb, photometric="rgb", bigtiff=True))
    if features.check("avif"):
        found.append(_saved(color, "AVIF"))
    return tuple(found)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _tiff(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def prepare(folder: Path) -> None:
    """Read each photo once, so that all decoders are loaded."""
    for data in corpus():
        (folder / "photo").write_bytes(data)
        _read(folder / "photo")


def trial(random: Random, folder: Path) -> str:
    path = folder / "photo"
    path.write_bytes(mutated(random, corpus()))
    first = _read(path)
    if random.random() < 0.05:  # reading the same file again gives the same answer
        second = _read(path)
        assert type(second) is type(first) and (isinstance(first, str) or np.array_equal(first, second))
    return "refused" if isinstance(first, str) else "read"


def _read(path: Path) -> np.ndarray | str:
    """The pixels, or the message of the one error that is allowed."""
    try:
        image = read_photo(path, "photo", MAX_PIXELS).image_hwc_rgb
    except InputError as e:
        message = str(e)
        assert str(path) in message and "\n" not in message and len(message) < 700, message
        return message
    height, width, channels = image.shape
    assert (channels, image.dtype) == (3, np.uint8) and 0 < height * width <= MAX_PIXELS
    assert image.flags.c_contiguous and image.flags.writeable
    return image
