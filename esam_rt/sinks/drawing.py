"""Drawing: tint and outline entities, shrink images, encode JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

_FILL = 0.3  # share of the color inside an entity: the photo stays readable
_BAND = 0.85  # share of the color along its border: it can be named there on any photo
_LINE = 11 / 12  # share of white in an outline
_WHOLE = 240  # the photo's share as a byte: each share below is one of 240 parts
_STRIP_PIXELS = 320_000  # drawn at a time: a frame of 640 x 480 is one strip, and temporaries stay small
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
    # One word a mixture: the gather is four times as fast as one of three bytes.
    words = _mixtures(colors).view(np.uint32).ravel()
    out = np.empty_like(image_hwc_rgb) if out is None else out
    rows = max(16, _STRIP_PIXELS // labels.shape[1])
    for y in range(0, len(labels), rows):
        top = max(0, y - margin)
        around, part = labels[top : y + rows + margin], slice(y - top, y - top + rows)
        index = np.multiply(_depths(around, thickness, reach)[part], len(colors), dtype=np.min_scalar_type(len(words)))
        index += around[part]
        mixture = words.take(index).view(np.uint8).reshape(*index.shape, 4)
        share = cv2.cvtColor(cv2.extractChannel(mixture, 3), cv2.COLOR_GRAY2BGR)
        photo = cv2.multiply(np.ascontiguousarray(image_hwc_rgb[y : y + rows]), share, share, scale=1 / _WHOLE)
        np.add(photo, cv2.cvtColor(mixture, cv2.COLOR_BGRA2BGR), out=out[y : y + rows])  # 255 at most
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


def _mixtures(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the part of a pixel that is not the photo, and the photo's share of 240, uint8 [4, N + 1, 4].

    The first axis counts as `_depths` does. Label 0 is the photo alone.
    """
    fill = np.array([_FILL, (_FILL + _BAND) / 2, _BAND, _BAND * (1 - _LINE)])
    white = np.array([0, 0, 0, _LINE])
    mixtures = np.zeros((4, len(colors), 4), np.uint8)
    mixtures[..., :3] = np.rint(fill[:, None, None] * colors + 255 * white[:, None, None])
    mixtures[..., 3] = np.rint(_WHOLE * (1 - fill - white))[:, None]
    mixtures[:, 0] = 0, 0, 0, _WHOLE
    return mixtures


def _depths(labels: NDArray[np.uint16], thickness: int, reach: int) -> NDArray[np.uint8]:
    """Tell where each pixel lies, uint8 [H, W]: 0 inside, 1 at the edge of a band, 2 in the band, 3 on the line.

    Bands lie up to ``reach`` pixels from a border. They are octagonal. Lines lie in entities, along their borders.
    """
    least = np.asarray(cv2.erode(labels, _CROSS))
    near = (least != cv2.dilate(labels, _CROSS)).view(np.uint8)
    for step in range(reach - 1):
        near = np.asarray(cv2.dilate(near, _SQUARE if step % 2 else _CROSS))
    # Larger than a neighbor: one side of every border, and never the side without an entity.
    line = (labels > least).view(np.uint8)
    if thickness > 1:
        line = np.asarray(cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness))))
    return np.asarray(cv2.add(cv2.add(cv2.dilate(near, _CROSS), near), line))  # each lies within the one before
