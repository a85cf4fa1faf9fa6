"""What readers of ground truth and of predictions share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from esam_rt.errors import InputError

_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on damaged files


@dataclass(frozen=True)
class TruePhoto:
    """A photo with ground truth. name: as the data set spells it, with forward slashes; width, height: pixels."""

    image_id: int
    name: str
    width: int
    height: int


def photo_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a photo, turned upright, by its header; None where that cannot be read."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except _DAMAGE:
        return None


def read_json(path: Path) -> Any:
    """A JSON file; `InputError` for a file that cannot be read or is none."""
    try:
        return json.loads(path.read_bytes())
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); expected a JSON file, check the path.") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not a JSON file ({str(e)[:80]}); expected COCO's format.") from e


def describe(data: object) -> str:
    """What a JSON file holds, in few words."""
    if isinstance(data, dict):
        keys = ", ".join(map(str, list(data)[:5]))
        return f"an object with {keys}" if keys else "an empty object"
    return f"a list of {len(data)}" if isinstance(data, list) else repr(data)[:40]


def read_label_map(path: Path) -> NDArray[np.int64]:
    """A PNG with one channel of 1 to 16 bits as int64 [H, W]; `InputError` for any other file."""
    pixels = read_png(path)
    if pixels.ndim != 2:
        raise InputError(f"{path}: has colors; expected a label map, a PNG with one channel of 8 or 16 bits.")
    return pixels.astype(np.int64)


def read_png(path: Path) -> NDArray[Any]:
    """The pixels of a PNG, [H, W] or [H, W, C]; `InputError` for a file that is missing, damaged or none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image)
    except _DAMAGE as e:
        reason = e.strerror if isinstance(e, OSError) and e.errno is not None else " ".join(str(e).split())
        raise InputError(f"{path}: cannot be read as PNG ({reason}); expected a label map.") from e
