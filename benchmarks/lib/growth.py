"""Recordings of more prompts, made from a recording: denser grids on the same photo, or many small copies of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.recording import Recording
from esam_rt.kernels.bits import areas_and_boxes, pack, unpack
from esam_rt.masks import MaskSet
from esam_rt.method.superpixels import superpixels
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import PATCH_PX

STEPS = 3  # at most this many edges of a mask move by a cell
SCORE_SPREAD = 0.01
AT_ONCE = 512  # masks to unpack at once


def denser(recording: Recording, k: int, seed: int = 0) -> Recording:
    """Make grids of k times the side. Each prompt becomes k² prompts with its masks, a few edges moved."""
    rng = np.random.default_rng(seed)
    prompts = recording.settings.prompts
    coarse, fine = prompts.coarse_side, prompts.fine_side

    def children(masks: MaskSet, side: int) -> MaskSet:
        parts = []
        for down in range(k):
            for right in range(k):
                y, x = np.divmod(masks.prompt_index, side)
                point = ((y * k + down) * side * k + x * k + right).astype(np.int32)
                moved = masks if down == right == 0 else _perturbed(masks, rng)
                parts.append(replace(moved, prompt_index=point))
        return _sorted(MaskSet.concatenate(parts), recording)

    numbers = replace(recording.additional, prompt_index=np.arange(len(recording.additional), dtype=np.int32))
    more = children(numbers, max(1, len(numbers)))
    return replace(
        recording,
        coarse=children(recording.coarse, coarse),
        fine=children(recording.fine, fine),
        additional=replace(more, prompt_index=np.arange(len(more), dtype=np.int32) + (coarse * k) ** 2),
        settings=_with_sides(recording, k),
    )


def busier(recording: Recording, tiles: int, k: int) -> Recording:
    """Make a photo of tiles² small copies, every second one mirrored, with grids of k times the side."""
    prompts = recording.settings.prompts

    def copies(masks: MaskSet, side: int) -> MaskSet:
        in_tile = side * k // tiles
        place = np.full(side, -1)  # position of a row of prompts within a tile
        place[(2 * np.arange(in_tile) + 1) * side // (2 * in_tile)] = np.arange(in_tile)
        y, x = place[np.stack(np.divmod(masks.prompt_index, side))]
        kept = masks.select((y >= 0) & (x >= 0))
        y, x = place[np.stack(np.divmod(kept.prompt_index, side))]
        parts = []
        for down in range(tiles):
            for right in range(tiles):
                own_y = in_tile - 1 - y if down % 2 else y
                own_x = in_tile - 1 - x if right % 2 else x
                point = (down * in_tile + own_y) * side * k + right * in_tile + own_x
                parts.append(replace(_in_tile(kept, tiles, down, right), prompt_index=point.astype(np.int32)))
        return _sorted(MaskSet.concatenate(parts), recording)

    image = _mosaic(cv2.blur(recording.image, (tiles, tiles)), tiles)
    geometry = recording.photo.geometry
    eh, ew = (-(-side // PATCH_PX) for side in geometry.resized_hw)
    embedding = recording.photo.embedding.copy()
    embedding[0, :, :eh, :ew] = _mosaic(embedding[0, :, :eh, :ew].transpose(1, 2, 0), tiles).transpose(2, 0, 1)
    numbers = recording.additional
    more = MaskSet.concatenate([_in_tile(numbers, tiles, i, j) for i in range(tiles) for j in range(tiles)])
    more = _sorted(replace(more, prompt_index=np.arange(len(more), dtype=np.int32)), recording)
    return replace(
        recording,
        image=image,
        photo=EncodedImage(embedding, geometry),
        pixels=superpixels(image, geometry, recording.settings.superpixels),
        coarse=copies(recording.coarse, prompts.coarse_side),
        fine=copies(recording.fine, prompts.fine_side),
        additional=replace(more, prompt_index=more.prompt_index + np.int32((prompts.coarse_side * k) ** 2)),
        settings=_with_sides(recording, k),
    )


def _with_sides(recording: Recording, k: int) -> Any:
    p = recording.settings.prompts
    sides = {"prompts.coarse_side": p.coarse_side * k, "prompts.fine_side": p.fine_side * k}
    return recording.settings.with_overrides(sides)


def _sorted(masks: MaskSet, recording: Recording) -> MaskSet:
    """Measure the masks again, drop those that became too small, and sort by prompt."""
    area, box = areas_and_boxes(masks.bits)
    measured = replace(masks, area=area, box_xyxy=box)
    kept = np.flatnonzero(area >= recording.settings.filters.min_area)
    return measured.select(kept[np.argsort(masks.prompt_index[kept], kind="stable")])


def _perturbed(masks: MaskSet, rng: np.random.Generator) -> MaskSet:
    bits, n = masks.bits.copy(), len(masks)
    inside = pack(np.ones((1, *masks.grid_hw), bool))
    for step in range(STEPS):
        direction, kind = rng.integers(0, 4, n), rng.integers(0, 2, n)
        kind[rng.random(n) < step / STEPS] = 2  # unchanged
        for d in range(4):
            for grows in (0, 1):
                chosen = np.flatnonzero((direction == d) & (kind == grows))
                own = bits[chosen]
                moved = _moved(own, d)
                bits[chosen] = (own | moved) & inside if grows else own & moved
    score = masks.predicted_iou + rng.normal(0, SCORE_SPREAD, n).astype(np.float32)
    return replace(masks, bits=bits, predicted_iou=score)


def _moved(bits: NDArray[np.uint64], direction: int) -> NDArray[np.uint64]:
    """Move masks by a cell: down, up, right or left."""
    out = np.zeros_like(bits)
    one, last = np.uint64(1), np.uint64(63)
    if direction == 0:
        out[:, 1:] = bits[:, :-1]
    elif direction == 1:
        out[:, :-1] = bits[:, 1:]
    elif direction == 2:
        out[:] = bits << one
        out[:, :, 1:] |= bits[:, :, :-1] >> last
    else:
        out[:] = bits >> one
        out[:, :, :-1] |= bits[:, :, 1:] << last
    return out


def _source(size: int, tiles: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return for each row of a mosaic its tile and its row in the original."""
    tile, row = np.divmod(np.arange(size) * tiles + tiles // 2, size)
    return tile, np.where(tile % 2, size - 1 - row, row)


def _mosaic(values_hwc: NDArray[Any], tiles: int) -> NDArray[Any]:
    rows, columns = (_source(size, tiles)[1] for size in values_hwc.shape[:2])
    return np.ascontiguousarray(values_hwc[rows[:, None], columns])


def _in_tile(masks: MaskSet, tiles: int, down: int, right: int) -> MaskSet:
    (tile_y, row), (tile_x, column) = (_source(size, tiles) for size in masks.grid_hw)
    ys, xs = np.flatnonzero(tile_y == down), np.flatnonzero(tile_x == right)
    bits = np.empty_like(masks.bits)
    for start in range(0, len(masks), AT_ONCE):
        dense = unpack(masks.bits[start : start + AT_ONCE], masks.width)
        small = np.zeros_like(dense)
        small[:, ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] = dense[:, row[ys][:, None], column[xs]]
        bits[start : start + AT_ONCE] = pack(small)
    return replace(masks, bits=bits)
