"""Photos with their entities drawn over them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.palette import _outlines, entity_colors
from esam_rt.sources.frame import Frame
from esam_rt.storage.atomic import write_bytes

MAX_JPEG_SIDE = 65_500  # libjpeg's limit
_FILL = 112  # share of the color in a tinted pixel, of 256
_LINE = 235  # share of white in an outline, of 256
_RIM = 120  # share of black beside an outline, of 256: it keeps white lines readable on bright photos
_STRIP_PIXELS = 1 << 18  # worked on at a time: temporaries stay small


def draw_overlay(image_hwc_rgb: NDArray[np.uint8], result: EntityMap) -> NDArray[np.uint8]:
    """uint8 RGB [H, W, 3]: the photo, its entities tinted and outlined (outlines lie inside the entities).

    image_hwc_rgb: uint8 [H, W, 3] of the same height and width as `result.labels`. Unlabelled pixels are unchanged.
    """
    return tint(image_hwc_rgb, result.labels, entity_colors(result))


def write_overlay(out: Path, frame: Frame, result: EntityMap, stem: str, in_place: bool = False) -> Path:
    """Write `overlays/<stem>.jpg` at the photo's resolution (sides are at most 65,500 pixels, as in any JPEG).

    in_place: the frame's pixels may be drawn over, which saves a copy.
    """
    path = out / "overlays" / f"{stem}.jpg"
    image, labels = shrink(frame.image_hwc_rgb, result.labels, MAX_JPEG_SIDE)
    in_place = (in_place or image is not frame.image_hwc_rgb) and image.flags.writeable
    drawn = tint(image, labels, entity_colors(result), image if in_place else None)
    write_bytes(path, jpeg(drawn, quality=92))
    return path


def tint(
    image_hwc_rgb: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    colors: NDArray[np.uint8],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """`draw_overlay` for labels [H, W] and the colors [N + 1, 3] of them; into `out`, which may be the photo."""
    thickness = max(1, round(max(labels.shape) / 1500))  # one pixel of a screen when the whole photo is on it
    margin = 2 * thickness + 4  # rows beyond a strip that its outlines depend on
    keep = np.full(len(colors), 256 - _FILL, np.uint16)
    add = colors.astype(np.uint16) * _FILL
    keep[0], add[0] = 256, 0
    out = np.empty_like(image_hwc_rgb) if out is None else out
    strip = max(16, _STRIP_PIXELS // labels.shape[1])
    for y in range(0, len(labels), strip):
        rows, above = slice(y, y + strip), min(y, margin)
        mixed = image_hwc_rgb[rows] * keep[labels[rows]][..., None]
        mixed += add.take(labels[rows], axis=0)  # four times as fast as add[labels[rows]]
        mixed >>= 8
        line, rim = _outlines(labels[y - above : y + strip + margin], thickness)
        for outline, share, level in ((rim, _RIM, 0), (line, _LINE, 255)):
            pixels = np.flatnonzero(outline[above : above + len(mixed)])
            flat = mixed.reshape(-1, 3)
            flat[pixels] = flat[pixels] * np.uint16(256 - share) + np.uint16(level * share) >> 8
        out[rows] = mixed
    return out


def shrink(
    image_hwc_rgb: NDArray[np.uint8], labels: NDArray[np.uint16], max_side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Both scaled down together so that no side is longer than `max_side`; unchanged where none is."""
    height, width = labels.shape
    scale = max_side / max(height, width)
    if scale >= 1:
        return image_hwc_rgb, labels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image_hwc_rgb, size, interpolation=cv2.INTER_AREA)
    # Picked by index and not by cv2, whose remapping stops at sides of 32,767.
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.intp)
    return np.asarray(image, np.uint8), labels[rows[:, None], columns]


def jpeg(image_hwc_rgb: NDArray[np.uint8], quality: int) -> bytes:
    """The image as a JPEG file."""
    image = np.ascontiguousarray(image_hwc_rgb)
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="420"))
