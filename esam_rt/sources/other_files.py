"""Names of file formats that people have beside photos. Messages call them by their names."""

from __future__ import annotations

import re

_NAMES: tuple[tuple[bytes, str], ...] = (
    (rb"GIF8[79]a", "a GIF image"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image"),
    (rb"P[1-7]\s", "a PBM, PGM or PPM image"),
    (rb"8BPS", "a Photoshop file"),
    (rb"v/1\x01", "an OpenEXR image"),
    (rb"#\?RADIANCE", "a Radiance HDR image"),
    (rb"\0\0[\x01\x02]\0", "an icon"),
    (rb"DDS ", "a DDS texture"),
    (rb"\x01\xda[\0\x01][\x01\x02]", "an SGI image"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"SIMPLE  =", "a FITS file"),
    (rb"II\*\0.{4}CR", "a raw file of a camera"),
    (rb"FUJIFILM|IIU\0|IIR[OS]|\0MRM|FOVb", "a raw file of a camera"),
    (rb"....ftypcrx ", "a raw file of a camera"),
    (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", "a video"),
    (rb"%PDF", "a PDF document"),
    (rb"%!PS", "a PostScript document"),
    (rb"\s*<(?:\?xml|svg)", "an SVG or XML text"),
    (rb"\s*<(?i:!doctype|html)", "a web page"),
    (rb"version https://git-lfs", "a pointer of Git LFS, and the photo itself is not downloaded"),
    (rb"PK\x03\x04", "a ZIP archive"),
)
_PATTERNS = [(re.compile(magic, re.DOTALL), name) for magic, name in _NAMES]


def name_of(head: bytes) -> str:
    """Name the format of a file that is no photo.

    Args:
        head: Its first bytes, 132 or more.

    Returns:
        For example ``a GIF image``. Empty if the format is unknown.
    """
    return next((name for magic, name in _PATTERNS if magic.match(head)), "")
