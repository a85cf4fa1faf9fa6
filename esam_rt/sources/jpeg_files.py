"""Decodes JPEG files. Their scans are counted before: a progressive JPEG can order thousands of passes over itself."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from esam_rt.errors import InputError
from esam_rt.sources.photo_limits import MAX_PIXELS, BoundedFile, pixels_for
from esam_rt.sources.pillow_pixels import Rgb, no_warnings, rgb_of
from esam_rt.sources.sample_range import SampleRange

_MOST_SEGMENTS = 100_000
_MOST_SCANS = 100
_USUAL_SCANS = 10  # of a progressive JPEG in color, as libjpeg writes it
# A JPEG has at most 4 bytes a pixel, and metadata. Phones append videos to photos: they are not read.
_METADATA_BYTES = 64_000_000
_BYTES_OF_A_PIXEL = 4
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # zero and restart markers belong to the data of a scan
_XYB = "XYB".encode("utf-16-be")  # part of the description in the color profile
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def check_scans(data: bytes, pixels: int, path: Path | str) -> None:
    """Check the number of scans of a JPEG stream. Each scan can be a pass over all pixels.

    Args:
        data: The stream, from its start marker. It may be damaged.
        pixels: Pixels of the photo.
        path: The file, for messages.

    Raises:
        InputError: If decoding it would take too long.
    """
    at, scans = 2, 0
    for _ in range(_MOST_SEGMENTS):
        marker = _MARKER.search(data, at)
        code = _END_OF_IMAGE if marker is None else marker[1][0]
        if marker is None or code == _END_OF_IMAGE:
            break
        scans += code == _START_OF_SCAN
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")  # length of the segment
    else:
        raise InputError(f"{path} is a JPEG of more than {_MOST_SEGMENTS} segments. Save it again.")
    most_pixels = _USUAL_SCANS * min(MAX_PIXELS, pixels_for(len(data)))
    if scans > _MOST_SCANS or (scans > _USUAL_SCANS and scans * pixels > most_pixels):
        raise InputError(f"{path} is a JPEG of {scans} scans, usual are up to {_USUAL_SCANS}. Save it again.")


def read_jpeg(image: JpegImageFile, file: BoundedFile, path: Path | str, sample_range: SampleRange) -> Rgb:
    """Decode a JPEG in color or grey with less memory than Pillow: three bytes a pixel, not four and a copy.

    The pixels equal those of Pillow. Pillow decodes CMYK photos, and decides about photos that the decoder warns of.

    Args:
        image: The photo, not decoded yet.
        file: Its file.
        path: Its path, for messages.
        sample_range: Passed to Pillow's part.

    Returns:
        uint8 [H, W, 3], not turned.

    Raises:
        InputError: If it has too many scans.
    """
    file.seek(0)
    pixels = image.width * image.height
    data = file.read(_METADATA_BYTES + _BYTES_OF_A_PIXEL * pixels)
    check_scans(data, pixels, path)
    rgb = _decode(image, data, path, sample_range)
    if _XYB in image.info.get("icc_profile", b""):  # as jpegli writes it: without its profile, brown is green
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        try:
            converted = ImageCms.profileToProfile(Image.fromarray(rgb), profile, ImageCms.createProfile("sRGB"))
        except ImageCms.PyCMSError as e:
            raise ValueError(f"color profile: {e}") from e
        rgb = np.array(converted)
    return rgb


def _decode(image: JpegImageFile, data: bytes, path: Path | str, sample_range: SampleRange) -> Rgb:
    if image.mode in ("RGB", "L"):
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB", strict=True), np.uint8)
        except ValueError:
            pass

    def opened() -> JpegImageFile:
        with no_warnings():
            return JpegImageFile(io.BytesIO(data))

    return rgb_of(opened(), opened, path, sample_range)
