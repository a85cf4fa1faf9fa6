"""Training samples of `tiny`: every prompt gets an object, a part and a sub-part as its targets.

A view is a window of a photo at a scale near that of inference, a window around a small region, four windows in a
square, or a drawn scene; objects of other photos may be pasted into it. Each sample follows from the seed and its
number alone, so that a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esam_rt.export.configs import MASK_STRIDE, TINY
from esam_rt.export.train_tiny.annotated_photos import OBJECT, PART, SUBPART, THINGS, Photo, Region
from esam_rt.export.train_tiny.synthetic import scene
from esam_rt.export.train_tiny.views import Tile, View, draw_region, mosaic, paste, window

SOURCE_WEIGHT = {
    "bsds500": 0.22,
    "coco_panoptic": 0.24,
    "coco_instances": 0.16,
    "ecssd": 0.06,
    "msrc": 0.12,
    "coco_instances_extra": 0.08,
    "camvid_train": 0.03,
    "car_parts": 0.02,
    "ccp": 0.02,
    "faces": 0.01,
    "labelmefacade": 0.02,
    "weizmann": 0.02,
}
SYNTHETIC, MOSAIC, ZOOM = 0.12, 0.15, 0.35  # shares of the views; the others show a photo at the scale of inference
PASTE = 0.35  # share of the views with photos that get objects of others
LEAST_CELLS = 5  # of the mask grid, of a region that is drawn
RIVAL_RANKS = {OBJECT: 0.35, PART: 0.7, SUBPART: 1.0}  # of the readings, from the largest region to the smallest


@dataclass
class Mix:
    """How prompts are drawn.

    by_region: share of the prompts whose region is drawn first, with a probability of 1/√area; the others are uniform
    over what is annotated, as at inference. zoom: share of the views around a region.
    """

    by_region: float = 0.5
    zoom: float = ZOOM


INFERENCE_MIX = Mix(by_region=0.3, zoom=0.15)


@dataclass
class Sample:
    """One view with prompts.

    image: uint8 [S, S, 3]. valid: bool [S/4, S/4], where there is photo. points_xy_px: float32 [P, 2]. targets: bool
    [P, 3, S/4, S/4], levels object, part, sub-part. known: float32 [P, 3], 0 for a level without truth. origin_xy_px:
    where the view lies in the square input of inference, multiples of 16.
    """

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    points_xy_px: NDArray[np.float32]
    targets: NDArray[np.bool_]
    known: NDArray[np.float32]
    origin_xy_px: tuple[int, int]


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


class Samples:
    """The endless list of samples of some photos.

    photos: what `load_photos` gives. seed: of all chance. Sources are drawn by SOURCE_WEIGHT.
    """

    def __init__(self, photos: list[Photo], seed: int = 0) -> None:
        self.seed = seed
        groups = {s: [p for p in photos if p.source == s and p.regions] for s in SOURCE_WEIGHT}
        self._groups = [group for group in groups.values() if group]
        weights = np.array([SOURCE_WEIGHT[group[0].source] for group in self._groups])
        self._weights = weights / weights.sum()
        self._donors = [p for p in photos if p.source in THINGS and p.regions and p.base == OBJECT]

    def sample(self, number: int, size_px: int, prompts: int, mix: Mix) -> Sample:
        """Sample `number`, a view of size_px², 512 at most, with that many prompts."""
        rng = np.random.default_rng([self.seed, number])
        while True:
            view = self._view(size_px, mix, rng)
            if candidates := _annotated_cells(view):
                break
        points, targets, known = [], [], []
        for _ in range(prompts):
            tile, y, x = _prompt(view, candidates, mix, rng)
            masks, weights = _targets(view, tile, y, x, rng)
            at = np.array([tile.x + x, tile.y + y]) + rng.random(2)
            points.append(at * MASK_STRIDE - 0.5)
            targets.append(masks)
            known.append(weights)
        steps = (TINY.input_px - size_px) // 16
        ox, oy = (int(16 * rng.integers(steps + 1)) for _ in range(2))
        return Sample(
            view.image, view.valid, np.array(points, np.float32), np.stack(targets), np.stack(known), (ox, oy)
        )

    def _photo(self, rng: np.random.Generator) -> Photo:
        group = self._groups[rng.choice(len(self._groups), p=self._weights)]
        return group[rng.integers(len(group))]

    def _view(self, size_px: int, mix: Mix, rng: np.random.Generator) -> View:
        kind = rng.random()
        if kind < SYNTHETIC:
            return scene(size_px, rng)
        if kind < SYNTHETIC + MOSAIC:
            view = mosaic([self._window(size_px // 2, mix, rng) for _ in range(4)])
        else:
            view = self._window(size_px, mix, rng)
        if self._donors and rng.random() < PASTE:
            small = rng.random() < 0.75
            for _ in range(int(rng.integers(1, 7)) if small else 1):
                donor = self._donors[rng.integers(len(self._donors))]
                region = _donated(donor, rng)
                if region is not None:
                    length = _log_uniform(10, 64, rng) if small else _log_uniform(64, 0.6 * size_px, rng)
                    paste(view, donor, region, length, rng)
        return view

    def _window(self, size_px: int, mix: Mix, rng: np.random.Generator) -> View:
        photo = self._photo(rng)
        h, w = photo.image_hwc_rgb.shape[:2]
        at_inference = TINY.input_px / max(h, w)
        if rng.random() < mix.zoom:
            region = draw_region(photo, rng)
            x0, y0, x1, y1 = region.box_xyxy
            wanted = _log_uniform(16, 0.6 * size_px, rng) / np.sqrt(region.area)
            scale = float(np.clip(wanted, 0.7 * at_inference, 3.0 * at_inference))
            jitter = rng.uniform(-0.4, 0.4, 2) * size_px / scale
            return window(photo, size_px, scale, ((x0 + x1) / 2 + jitter[0], (y0 + y1) / 2 + jitter[1]), rng)
        if size_px == TINY.input_px and rng.random() < 0.4:
            scale = at_inference  # the whole photo, as at inference
        else:
            least = 0.7 if size_px == TINY.input_px else 0.45
            scale = at_inference * _log_uniform(least, 1.8, rng)
        return window(photo, size_px, scale, (rng.uniform(0, w), rng.uniform(0, h)), rng)


def _donated(donor: Photo, rng: np.random.Generator) -> Region | None:
    """An object of at least 400 pixels and at most half of its photo."""
    h, w = donor.image_hwc_rgb.shape[:2]
    large = [r for r in donor.regions if 400 <= r.area <= h * w / 2]
    return large[rng.integers(len(large))] if large else None


def _base(tile: Tile) -> NDArray[np.int16]:
    """The map of a tile that prompts are drawn from; of nested maps the first that knows a cell."""
    if tile.rivals:
        return tile.maps[tile.base]
    return np.where(tile.maps[OBJECT] > 0, tile.maps[OBJECT], -tile.maps[PART])


def _annotated_cells(view: View) -> list[tuple[Tile, NDArray[np.int16], NDArray[np.intp]]]:
    """Tiles with annotated cells: the tile, its base map, and the cells [N, 2] as y, x."""
    found = []
    for tile in view.tiles:
        base = _base(tile)
        cells = np.argwhere(base != 0)
        if len(cells):
            found.append((tile, base, cells))
    return found if sum(len(cells) for _, _, cells in found) >= 64 else []


def _prompt(
    view: View,
    candidates: list[tuple[Tile, NDArray[np.int16], NDArray[np.intp]]],
    mix: Mix,
    rng: np.random.Generator,
) -> tuple[Tile, int, int]:
    """The tile and the cell of a prompt."""
    sizes = np.array([len(cells) for _, _, cells in candidates])
    tile, base, cells = candidates[rng.choice(len(sizes), p=sizes / sizes.sum())]
    if rng.random() < mix.by_region:
        labels = base
        if not tile.rivals and rng.random() < 0.2:
            labels = tile.maps[PART]
        found, counts = np.unique(labels[labels != 0], return_counts=True)
        found, counts = found[counts >= LEAST_CELLS], counts[counts >= LEAST_CELLS]
        if len(found):
            weight = counts**-0.5
            cells = np.argwhere(labels == rng.choice(found, p=weight / weight.sum()))
    y, x = cells[rng.integers(len(cells))]
    return tile, int(y), int(x)


def _targets(
    view: View, tile: Tile, y: int, x: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Object, part and sub-part masks [3, G, G] of a tile's cell, and which are known [3]."""
    masks, known = np.zeros((3, *view.valid.shape), bool), np.ones(3, np.float32)
    h, w = tile.maps.shape[1:]
    place = masks[:, tile.y : tile.y + h, tile.x : tile.x + w]
    labels = tile.maps[:, y, x]
    if tile.rivals:
        found = [tile.maps[k] == labels[k] for k in np.flatnonzero(labels)]
        found.sort(key=lambda m: -int(m.sum()))
        edge = 1 if len(found) >= 5 else 0  # the most extreme reading on each side is left out
        found = found[edge : len(found) - edge]
        for level, rank in RIVAL_RANKS.items():
            place[level] = found[round(rank * (len(found) - 1))]
        return masks, known
    for level in (OBJECT, PART, SUBPART):
        known[level] = labels[level] > 0
        if known[level]:
            place[level] = tile.maps[level] == labels[level]
    if known[PART] and (not known[SUBPART] or rng.random() < 0.5):
        place[SUBPART], known[SUBPART] = place[PART], 1
    return masks, known
