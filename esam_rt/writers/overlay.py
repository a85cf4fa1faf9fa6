"""Overlays: the photo with each entity tinted in a colour of its own and outlined."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.frames import Frame
from esam_rt.storage.atomic import write_bytes

MAX_JPEG_SIDE = 65_500  # libjpeg's limit

_FILL = 112  # share of the colour in a tinted pixel, of 256
_LINE = 235  # share of white in an outline, of 256
_RIM = 120  # share of black beside an outline, of 256: it keeps white lines readable on bright photos
_STRIP_PIXELS = 1 << 18  # worked on at a time: temporaries stay small
_ADJACENCY_SIDE = 1024  # colours are chosen on a map of this size: neighbours that do not show there need no contrast
_GAP = 3  # pixels of that map that may lie between neighbours


def entity_colours(result: EntityMap) -> NDArray[np.uint8]:
    """uint8 RGB [N + 1, 3], row i for label i (row 0 is black), clearly different for entities that touch or nearly do.

    Entities are coloured in order, each with the least used of the hues that differ enough from its neighbours'.
    """
    chosen = np.full(len(result) + 1, -1)
    used = np.zeros(len(_HUES))
    neighbours = _neighbours(result.labels, len(result))
    for label in range(1, len(result) + 1):
        taken = chosen[neighbours[label]]
        difference = _DIFFERENCE[:, taken[taken >= 0]].min(axis=1, initial=np.inf)
        enough = difference >= min(_CLEAR, difference.max())
        chosen[label] = np.where(enough, used, np.inf).argmin()
        used[chosen[label]] += 1
    colours: NDArray[np.uint8] = _HUES[chosen]
    colours[0] = 0
    return colours


def draw_overlay(image_hwc_rgb: NDArray[np.uint8], result: EntityMap) -> NDArray[np.uint8]:
    """uint8 RGB [H, W, 3]: the photo, its entities tinted and outlined (outlines lie inside the entities).

    image_hwc_rgb: uint8 [H, W, 3] of the same height and width as `result.labels`. Unlabelled pixels are unchanged.
    """
    return tint(image_hwc_rgb, result.labels, entity_colours(result))


def write_overlay(out: Path, frame: Frame, result: EntityMap, stem: str, in_place: bool = False) -> Path:
    """Write `overlays/<stem>.jpg` at the photo's resolution (sides are at most 65,500 pixels, as in any JPEG).

    in_place: the frame's pixels may be drawn over, which saves a copy.
    """
    path = out / "overlays" / f"{stem}.jpg"
    image, labels = shrink(frame.image_hwc_rgb, result.labels, MAX_JPEG_SIDE)
    in_place = (in_place or image is not frame.image_hwc_rgb) and image.flags.writeable
    drawn = tint(image, labels, entity_colours(result), image if in_place else None)
    write_bytes(path, jpeg(drawn, quality=92))
    return path


def tint(
    image_hwc_rgb: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    colours: NDArray[np.uint8],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """`draw_overlay` for labels [H, W] and the colours [N + 1, 3] of them; into `out`, which may be the photo."""
    thickness = max(1, round(max(labels.shape) / 1500))  # one pixel of a screen when the whole photo is on it
    margin = 2 * thickness + 4  # rows beyond a strip that its outlines depend on
    keep = np.full(len(colours), 256 - _FILL, np.uint16)
    add = colours.astype(np.uint16) * _FILL
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


def _outlines(labels: NDArray[np.uint16], thickness: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """bool [H, W] twice: lines along the borders of entities and, beside them, their rims; both inside entities."""
    inside = labels > 0
    # Larger than a neighbour: one side of every border, and never the side without an entity.
    line = (labels > np.asarray(cv2.erode(labels, _CROSS))).view(np.uint8)
    if thickness > 1:
        line[:] = cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness)))
    rim_size = 2 * max(1, thickness // 2) + 1
    rim = np.asarray(cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim_size, rim_size))))
    return (line > 0) & inside, (rim > line) & inside


def _neighbours(labels: NDArray[np.uint16], count: int) -> list[NDArray[np.intp]]:
    """For each label from 0 to `count`, the labels that touch it or are at most `_GAP` sampled pixels away."""
    step = -(-max(labels.shape) // _ADJACENCY_SIDE)
    sampled = labels[::step, ::step].astype(np.int64)
    pairs = [np.zeros(0, np.int64)]
    for shift in range(1, _GAP + 2):
        for a, b in ((sampled[:, :-shift], sampled[:, shift:]), (sampled[:-shift], sampled[shift:])):
            border = (a != b) & (a > 0) & (b > 0)
            pairs.append(np.unique(a[border] * (count + 1) + b[border]))
    one, other = np.divmod(np.concatenate(pairs), count + 1)
    both = np.unique(np.concatenate([one * (count + 1) + other, other * (count + 1) + one]))
    one, other = np.divmod(both, count + 1)
    return np.split(other.astype(np.intp), np.searchsorted(one, np.arange(1, count + 1)))


def _hues() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Vivid colours, uint8 RGB [K, 3], and the CIELAB distance of each two [K, K]."""
    hue = np.arange(18) * 0.618034 % 1 * 360
    hsv = np.stack([hue, np.tile([0.8, 0.55, 0.95], 6), np.tile([1, 1, 0.8], 6)], axis=1).astype(np.float32)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)[0]
    difference = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return np.round(rgb[0] * 255).astype(np.uint8), difference.astype(np.float32)


_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_HUES, _DIFFERENCE = _hues()
_CLEAR = 45.0  # CIELAB units: red and orange are 60 apart, neighbouring greens 20
