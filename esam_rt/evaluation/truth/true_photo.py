"""A photo of the ground truth, and readers of JSON and PNG files that ground truth and predictions share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from esam_rt.errors import InputError
from esam_rt.storage.json_files import bounded_json

TRUTH_BYTES = 4 << 30  # of a JSON file of ground truth or results; those of EntitySeg have hundreds of megabytes

_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)  # errors that Pillow raises for damaged files


@dataclass(frozen=True)
class TruePhoto:
    """A photo with ground truth.

    Attributes:
        image_id: Id in the ground truth.
        name: Name as the data set spells it, with forward slashes.
        width: Width in pixels, upright.
        height: Height in pixels, upright.
    """

    image_id: int
    name: str
    width: int
    height: int


def photo_size(path: Path) -> tuple[int, int] | None:
    """Read width and height in pixels of a photo from its header, turned upright; None if that fails.

    Args:
        path: File of the photo.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except _DAMAGE:
        return None


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file.

    Raises:
        InputError: The file cannot be read, or is no JSON file.
    """
    try:
        return bounded_json(path, TRUTH_BYTES)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); expected a JSON file. Check the path.") from e
    except ValueError as e:
        raise InputError(f"{path}: not a JSON file ({str(e)[:80]}); expected COCO's format. Check the path.") from e


def describe(data: object) -> str:
    """Describe the content of a JSON file in few words.

    Args:
        data: The parsed content.
    """
    if isinstance(data, dict):
        keys = ", ".join(map(str, list(data)[:5]))
        return f"an object with {keys}" if keys else "an empty object"
    return f"a list of {len(data)}" if isinstance(data, list) else repr(data)[:40]


def read_label_map(path: Path) -> NDArray[np.int64]:
    """Read a label map from a PNG with one channel of 1 to 16 bits.

    Args:
        path: The file.

    Returns:
        Labels int64 [H, W].

    Raises:
        InputError: The file cannot be read or has colors.
    """
    pixels = read_png(path)
    if pixels.ndim != 2:
        raise InputError(f"{path}: has colors; expected a label map. Give a PNG with one channel of 8 or 16 bits.")
    return pixels.astype(np.int64)


def read_png(path: Path) -> NDArray[Any]:
    """Read the pixels of a PNG.

    Args:
        path: The file.

    Returns:
        Pixels [H, W] or [H, W, C], uint8 or uint16.

    Raises:
        InputError: The file is missing, damaged or no PNG.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image)
    except _DAMAGE as e:
        reason = e.strerror if isinstance(e, OSError) and e.errno is not None else " ".join(str(e).split())
        raise InputError(f"{path}: cannot be read as PNG ({reason}); expected a label map. Check the file.") from e
