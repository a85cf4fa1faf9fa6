"""Drawing: tint and outline entities, shrink images, encode JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

_FILL = 0.3  # share of the color inside an entity: the photo stays readable
_BAND = 0.85  # share of the color along its border: it can be named there on any photo
_LINE = 0.92  # share of white in an outline
_STRIP_PIXELS = 1 << 18  # drawn at a time: temporaries stay small
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_SQUARE = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))


def tint(
    image_hwc_rgb: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    colors: NDArray[np.uint8],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Tint and outline the entities of an image. Outlines lie inside the entities, white between bands of their colors.

    Args:
        image_hwc_rgb: uint8 [H, W, 3].
        labels: uint16 [H, W]. Pixels with label 0 stay unchanged.
        colors: uint8 RGB [N + 1, 3], one row a label, as `entity_colors` makes them.
        out: uint8 [H, W, 3] for the result. It may be the image itself.

    Returns:
        ``out``, or a new array without it.
    """
    side = max(labels.shape)
    thickness = max(1, round(side / 1500))  # one pixel of a screen that shows the whole photo
    reach = thickness + max(1, round(side / 300))  # of the band from the border, pixels
    margin = reach + thickness + 2  # rows beyond a strip that its outlines depend on
    # One word a color: the gather is four times as fast as one of three bytes.
    words = np.pad(colors, ((0, 0), (0, 1))).view(np.uint32)[:, 0]
    out = np.empty_like(image_hwc_rgb) if out is None else out
    rows = max(16, _STRIP_PIXELS // labels.shape[1])
    for y in range(0, len(labels), rows):
        top = max(0, y - margin)
        around, part = labels[top : y + rows + margin], slice(y - top, y - top + rows)
        image = np.ascontiguousarray(image_hwc_rgb[y : y + rows])
        fill = cv2.cvtColor(words.take(around[part]).view(np.uint8).reshape(*image.shape[:2], 4), cv2.COLOR_BGRA2BGR)
        mixed = cv2.addWeighted(image, 1 - _FILL, fill, _FILL, 0)
        for near, share in zip(_bands(around, reach), ((_FILL + _BAND) / 2, _BAND), strict=True):
            cv2.copyTo(cv2.addWeighted(image, 1 - share, fill, share, 0), near[part], mixed)
        cv2.copyTo(
            cv2.convertScaleAbs(mixed, alpha=1 - _LINE, beta=255 * _LINE), _lines(around, thickness)[part], mixed
        )
        cv2.copyTo(image, (around[part] == 0).view(np.uint8), mixed)
        out[y : y + rows] = mixed
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


def _bands(labels: NDArray[np.uint16], reach: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return masks uint8 [H, W]: pixels up to ``reach`` from a border, and up to one pixel less. They are octagonal."""
    near = (cv2.erode(labels, _CROSS) != cv2.dilate(labels, _CROSS)).view(np.uint8)
    for step in range(reach - 1):
        near = np.asarray(cv2.dilate(near, _SQUARE if step % 2 else _CROSS))
    return np.asarray(cv2.dilate(near, _CROSS)), near


def _lines(labels: NDArray[np.uint16], thickness: int) -> NDArray[np.uint8]:
    """Return a mask uint8 [H, W]: lines along the borders of entities."""
    # Larger than a neighbor: one side of every border, and never the side without an entity.
    line = (labels > np.asarray(cv2.erode(labels, _CROSS))).view(np.uint8)
    if thickness > 1:
        line = np.asarray(cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness))))
    return line
