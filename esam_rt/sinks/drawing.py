"""Drawing: tint and outline entities, shrink images, encode JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

_FILL = 0.44  # share of the color in a tinted pixel
_LINE = 0.92  # share of white in an outline
_RIM = 0.47  # share of black beside an outline: it keeps white lines readable on bright photos
_STRIP_PIXELS = 1 << 18  # drawn at a time: temporaries stay small
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def tint(
    image_hwc_rgb: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    colors: NDArray[np.uint8],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Tint and outline the entities of an image. Outlines lie inside the entities.

    Args:
        image_hwc_rgb: uint8 [H, W, 3].
        labels: uint16 [H, W]. Pixels with label 0 stay unchanged.
        colors: uint8 RGB [N + 1, 3], one row a label, as `entity_colors` makes them.
        out: uint8 [H, W, 3] for the result. It may be the image itself.

    Returns:
        ``out``, or a new array without it.
    """
    thickness = max(1, round(max(labels.shape) / 1500))  # one pixel of a screen that shows the whole photo
    margin = 2 * thickness + 4  # rows beyond a strip that its outlines depend on
    # One word a color: the gather is four times as fast as one of three bytes.
    words = np.pad(colors, ((0, 0), (0, 1))).view(np.uint32)[:, 0]
    out = np.empty_like(image_hwc_rgb) if out is None else out
    strip = max(16, _STRIP_PIXELS // labels.shape[1])
    for y in range(0, len(labels), strip):
        rows, above = slice(y, y + strip), min(y, margin)
        image = np.ascontiguousarray(image_hwc_rgb[rows])
        fill = cv2.cvtColor(words.take(labels[rows]).view(np.uint8).reshape(*image.shape[:2], 4), cv2.COLOR_BGRA2BGR)
        mixed = cv2.addWeighted(image, 1 - _FILL, fill, _FILL, 0)
        cv2.copyTo(image, (labels[rows] == 0).view(np.uint8), mixed)
        line, rim = _outlines(labels[y - above : y + strip + margin], thickness)
        for outline, share, level in ((rim, _RIM, 0), (line, _LINE, 255)):
            faded = cv2.convertScaleAbs(mixed, alpha=1 - share, beta=level * share)
            cv2.copyTo(faded, outline[above : above + len(mixed)].view(np.uint8), mixed)
        out[rows] = mixed
    return out


def shrink(
    image_hwc_rgb: NDArray[np.uint8], labels: NDArray[np.uint16], max_side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Scale an image and its label map down together.

    Args:
        image_hwc_rgb: uint8 [H, W, 3].
        labels: uint16 [H, W].
        max_side: Longest side of the result, pixels.

    Returns:
        Image and label map of one size. They are the arguments themselves if no side is too long.
    """
    height, width = labels.shape
    scale = max_side / max(height, width)
    if scale >= 1:
        return image_hwc_rgb, labels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image_hwc_rgb, size, interpolation=cv2.INTER_AREA)
    # Labels are picked by index: cv2.remap stops at sides of 32,767 pixels.
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.intp)
    return np.asarray(image, np.uint8), labels[rows[:, None], columns]


def jpeg(image_hwc_rgb: NDArray[np.uint8], quality: int) -> bytes:
    """Encode an image as JPEG.

    Args:
        image_hwc_rgb: uint8 [H, W, 3], RGB.
        quality: 1 to 100.

    Returns:
        The bytes of the file.
    """
    image = np.ascontiguousarray(image_hwc_rgb)
    return bytes(simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="420"))


def _outlines(labels: NDArray[np.uint16], thickness: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return bool [H, W] twice: lines along the borders of entities, and the rims beside them. Both lie inside."""
    inside = labels > 0
    # Larger than a neighbor: one side of every border, and never the side without an entity.
    line = (labels > np.asarray(cv2.erode(labels, _CROSS))).view(np.uint8)
    if thickness > 1:
        line[:] = cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness)))
    rim_size = 2 * max(1, thickness // 2) + 1
    rim = np.asarray(cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim_size, rim_size))))
    return (line > 0) & inside, (rim > line) & inside
