"""Views of photos: windows at a chosen scale, mosaics, and objects pasted from other photos."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.export.configs import MASK_STRIDE
from esam_rt.export.train_tiny.annotated_photos import Photo, Region


@dataclass
class Tile:
    """A photo's window in a view. maps: int16 [K, h, w] at stride 4, 0 = not known; at cell (y, x) of the view's grid.
    rivals, base: as of `Photo`."""

    maps: NDArray[np.int16]
    y: int
    x: int
    rivals: bool
    base: int


@dataclass
class View:
    """image: uint8 [S, S, 3]. valid: bool [S/4, S/4], the cells that are photo. tiles: its windows, apart from each
    other."""

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    tiles: list[Tile]


def draw_region(photo: Photo, rng: np.random.Generator) -> Region:
    """A region with a probability of 1/√area."""
    weight = np.array([r.area for r in photo.regions], float) ** -0.5
    return photo.regions[rng.choice(len(weight), p=weight / weight.sum())]


def window(photo: Photo, size_px: int, scale: float, center_xy: tuple[float, float], rng: np.random.Generator) -> View:
    """A square window of a photo, flipped and colored at random.

    Args:
        photo: The photo.
        size_px: Side S of the view.
        scale: Pixels of the view a pixel of the photo.
        center_xy: Center of the window in pixels of the photo; the window is moved into the photo.
        rng: Source of chance.

    Returns:
        The view; a photo that is smaller than the window lies at its top left, the rest is black.
    """
    image, labels = photo.image_hwc_rgb, photo.label_maps
    h, w = image.shape[:2]
    ch, cw = min(h, max(4, round(size_px / scale))), min(w, max(4, round(size_px / scale)))
    y0 = int(np.clip(center_xy[1] - ch / 2, 0, h - ch))
    x0 = int(np.clip(center_xy[0] - cw / 2, 0, w - cw))
    vh, vw = min(size_px, max(4, round(ch * scale))), min(size_px, max(4, round(cw * scale)))
    flip = rng.random() < 0.5
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    part = cv2.resize(np.ascontiguousarray(image[y0 : y0 + ch, x0 : x0 + cw]), (vw, vh), interpolation=method)
    out = np.zeros((size_px, size_px, 3), np.uint8)
    out[:vh, :vw] = recolored(part[:, ::-1] if flip else part, rng)
    grid, gh, gw = size_px // MASK_STRIDE, -(-vh // MASK_STRIDE), -(-vw // MASK_STRIDE)
    # The centers of the cells; the last ones may lie beyond the photo's edge.
    cy = np.minimum((np.arange(gh) + 0.5) * MASK_STRIDE, vh - 0.5)
    cx = np.minimum((np.arange(gw) + 0.5) * MASK_STRIDE, vw - 0.5)
    cx = vw - cx if flip else cx
    ys = y0 + np.minimum((cy * ch / vh).astype(int), ch - 1)
    xs = x0 + np.minimum((cx * cw / vw).astype(int), cw - 1)
    maps = np.ascontiguousarray(labels[:, ys[:, None], xs])
    valid = np.zeros((grid, grid), bool)
    valid[:gh, :gw] = True
    return View(out, valid, [Tile(maps, 0, 0, photo.rivals, photo.base)])


def recolored(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Other gains of the channels, another brightness; one in ten is gray."""
    gain, offset = rng.uniform(0.75, 1.3, 3) ** 0.5 * rng.uniform(0.8, 1.25), rng.uniform(-20, 20)
    table = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
    out = np.stack([cv2.LUT(np.ascontiguousarray(image[..., c]), table[:, c]) for c in range(3)], -1)
    if rng.random() < 0.1:
        out = np.repeat(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    return np.asarray(out, np.uint8)


def mosaic(views: list[View]) -> View:
    """Four views of S/2 px as one of S."""
    half = views[0].image.shape[0]
    image, valid = np.zeros((2 * half, 2 * half, 3), np.uint8), np.zeros((half // 2, half // 2), bool)
    tiles, g = [], half // MASK_STRIDE
    for i, v in enumerate(views):
        y, x = divmod(i, 2)
        image[y * half : (y + 1) * half, x * half : (x + 1) * half] = v.image
        valid[y * g : (y + 1) * g, x * g : (x + 1) * g] = v.valid
        tiles += [Tile(t.maps, t.y + y * g, t.x + x * g, t.rivals, t.base) for t in v.tiles]
    return View(image, valid, tiles)


def paste(view: View, donor: Photo, region: Region, long_side_px: float, rng: np.random.Generator) -> None:
    """Put an object of a photo of nested maps in front of a view's first tile, with its parts.

    Args:
        view: Changed in place; rival maps all show the object whole.
        donor: The photo that the object is from.
        region: The object.
        long_side_px: Its length in the view, pixels.
        rng: Source of chance.
    """
    tile = view.tiles[0]
    x0, y0, x1, y1 = region.box_xyxy
    scale = long_side_px / max(y1 - y0, x1 - x0)
    h, w = max(2, round((y1 - y0) * scale)), max(2, round((x1 - x0) * scale))
    room_h, room_w = tile.maps.shape[1] * MASK_STRIDE - h, tile.maps.shape[2] * MASK_STRIDE - w
    if room_h < 1 or room_w < 1:
        return
    labels = np.ascontiguousarray(donor.label_maps[:, y0:y1, x0:x1])
    mask = (labels[donor.base] == region.label).astype(np.float32)
    smooth = cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pixels = np.ascontiguousarray(donor.image_hwc_rgb[y0:y1, x0:x1])
    pixels = recolored(cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA), rng)
    y, x = int(rng.integers(room_h)), int(rng.integers(room_w))
    top, left = y + tile.y * MASK_STRIDE, x + tile.x * MASK_STRIDE
    place = view.image[top : top + h, left : left + w]
    place[:] = place * (1 - smooth[..., None]) + pixels * smooth[..., None]
    # Cells whose center the object covers.
    cy = np.arange(-(-(y - MASK_STRIDE // 2) // MASK_STRIDE), (y + h - 1 - MASK_STRIDE // 2) // MASK_STRIDE + 1)
    cx = np.arange(-(-(x - MASK_STRIDE // 2) // MASK_STRIDE), (x + w - 1 - MASK_STRIDE // 2) // MASK_STRIDE + 1)
    if len(cy) == 0 or len(cx) == 0:
        return
    py, px = cy * MASK_STRIDE + MASK_STRIDE // 2 - y, cx * MASK_STRIDE + MASK_STRIDE // 2 - x
    covered = smooth[py[:, None], px] > 0.5
    sy, sx = (py * (y1 - y0) // h), (px * (x1 - x0) // w)
    nested = not tile.rivals and not donor.rivals
    for k, cells in enumerate(tile.maps):
        at = cells[cy[0] : cy[-1] + 1, cx[0] : cx[-1] + 1]
        own = labels[k][sy[:, None], sx][covered] if nested else 0
        at[covered] = np.where(own > 0, own, 0) + (cells.max() + 1)
