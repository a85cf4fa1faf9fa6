"""Adaptive prompts: points in masks that prompts agree on are left out, and coarse prompts vote."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.masks import Level, MaskSet
from esam_rt.method.adaptive_prompts import agreed_cells, in_waves, outside_agreed_masks, shared_gallery
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.time_budget import Costs, TimeBudget
from esam_rt.method.waves import decode_waves, farthest_first
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid, scattered
from esam_rt.settings import Adaptive

SIDE = 16  # prompts per side
CELLS = 64
GEOMETRY = Geometry((CELLS, CELLS), (4 * CELLS, 4 * CELLS), (CELLS, CELLS))
Y, X = np.indices((CELLS, CELLS))


def overlapping_masks(seed: int, count: int = 60) -> MaskSet:
    """Boxes around few centers, so that many of them are nearly equal; some levels are not the object level."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(0, CELLS, (6, 2))
    kind = rng.integers(0, 6, count)
    y, x = (centers[kind] + rng.integers(-1, 2, (count, 2))).T[..., None, None]
    half = (4 + 3 * kind + rng.integers(-1, 2, count))[:, None, None]
    masks = (abs(Y - y) <= half) & (abs(X - x) <= half)
    return MaskSet.from_bool(masks, rng.random(count), level=rng.choice(3, count, p=(0.7, 0.2, 0.1)))


def agreed_by_definition(masks: MaskSet, agree: int, iou_min: float) -> NDArray[np.bool_]:
    """Oracle: groups of masks by IoU of booleans, the best mask first."""
    shown = masks.to_bool()
    groups: list[list[int]] = []
    for m in sorted(range(len(masks)), key=lambda i: -masks.predicted_iou[i]):
        if masks.level[m] != Level.OBJECT:
            continue
        for group in groups:
            best = shown[group[0]]
            if (best & shown[m]).sum() >= iou_min * (best | shown[m]).sum():
                group.append(m)
                break
        else:
            groups.append([m])
    cells = np.zeros(masks.grid_hw, bool)
    for group in groups:
        if len(group) >= agree:
            cells |= shown[group[0]]
    return cells


@pytest.mark.parametrize("agree", [1, 2, 5, 1000])
@pytest.mark.parametrize("iou_min", [0.5, 0.8, 1.0])
def test_agreed_cells_are_those_of_the_definition(agree: int, iou_min: float) -> None:
    for seed in range(5):
        masks = overlapping_masks(seed)
        found = agreed_cells(masks, Adaptive(agree=agree, agree_iou=iou_min))
        np.testing.assert_array_equal(found, agreed_by_definition(masks, agree, iou_min))


def test_without_masks_nothing_is_agreed() -> None:
    assert not agreed_cells(MaskSet.empty(*GEOMETRY.grid_hw), Adaptive()).any()


def decoder_of(labels: NDArray[np.integer], asked: list[NDArray[np.float32]]) -> PromptSet:
    """A coarse grid whose prompts get the region of `labels` that they lie in; label 0 gives no mask."""

    def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
        asked.append(points_norm_xy)
        under = labels[tuple(GEOMETRY.to_cell_yx(points_norm_xy).T)]
        index = np.flatnonzero(under)
        return MaskSet.from_bool(under[index, None, None] == labels, prompt_index=index)

    return PromptSet.grid(SIDE, GEOMETRY, decode)


def regions() -> NDArray[np.int64]:
    """A left and a right half; in the left one an object as large as one point's square, in the right one no mask."""
    labels = np.where(X < CELLS // 2, 1, 2)
    labels[20:24, 8:12] = 3  # the square of the point in row 5, column 2
    labels[40:, 40:] = 0
    return labels


def test_points_of_found_objects_are_left_out_and_all_others_are_decoded() -> None:
    labels, asked = regions(), list[NDArray[np.float32]]()
    prompts = decoder_of(labels, asked)
    settings = Adaptive(agree=5, wave=16)
    decode_waves(prompts, in_waves(outside_agreed_masks(settings), settings.wave))
    under = labels[tuple(prompts.cells_yx.T)]
    assert prompts.is_decoded[(under == 0) | (under == 3)].all()
    for object_index in (1, 2):
        assert 5 <= prompts.is_decoded[under == object_index].sum() <= 5 + 16
    assert all(len(points) <= 16 for points in asked)
    assert prompts.is_decoded.sum() == sum(map(len, asked)) < 110


@pytest.mark.parametrize("seed", range(4))
def test_each_wave_is_the_scattered_rest(seed: int) -> None:
    """Oracle: the definition, on random regions, before each wave."""
    labels = np.random.default_rng(seed).integers(0, 5, (4, 4)).repeat(16, 0).repeat(16, 1)
    prompts = decoder_of(labels, [])
    strategy = outside_agreed_masks(Adaptive(agree=3))
    order = scattered(SIDE)
    for _ in range(30):
        found = agreed_by_definition(prompts.masks, 3, 0.8)
        left = [p for p in order if not prompts.is_decoded[p] and not found[tuple(prompts.cells_yx[p])]]
        np.testing.assert_array_equal(strategy(prompts), left)
        np.testing.assert_array_equal(in_waves(strategy, 7)(prompts), left[:7])
        prompts.ask(in_waves(strategy, 7)(prompts))


def test_a_prompt_that_nobody_agrees_with_leaves_nothing_out() -> None:
    prompts = decoder_of(np.ones((CELLS, CELLS), np.int64), [])
    decode_waves(prompts, in_waves(outside_agreed_masks(Adaptive(agree=SIDE**2 + 1)), 50))
    assert prompts.is_decoded.all()


def test_under_a_deadline_the_farthest_of_the_rest_come_first() -> None:
    prompts = decoder_of(regions(), [])
    decode_waves(prompts, farthest_first(outside_agreed_masks(Adaptive(agree=5))))
    under = regions()[tuple(prompts.cells_yx.T)]
    assert prompts.is_decoded[(under == 0) | (under == 3)].all()
    assert prompts.is_decoded.sum() < 130


def budget() -> TimeBudget:
    return TimeBudget(Costs(), (CELLS, CELLS))


@pytest.mark.parametrize("side", [SIDE, 2 * SIDE])
def test_a_shared_gallery_holds_the_coarse_masks_and_decodes_no_point_twice(side: int) -> None:
    coarse = decoder_of(regions(), [])
    chosen = np.random.default_rng(side).permutation(SIDE**2)[:90]
    coarse.ask(chosen)
    asked: list[NDArray[np.float32]] = []
    fine = decoder_of(regions(), asked)
    gallery = shared_gallery(coarse, side, GEOMETRY, fine._decode, budget())
    assert gallery.is_decoded.sum() == 90
    first = gallery.points_norm_xy[gallery.order[:90]]
    np.testing.assert_array_equal(first, coarse.points_norm_xy[coarse.order[np.isin(coarse.order, chosen)]])
    for k, prompt in enumerate(gallery.masks.prompt_index):
        mask = gallery.masks.to_bool()[k]
        assert mask[tuple(gallery.cells_yx[prompt])]
    gallery.ask_all()
    everything = np.concatenate([coarse.points_norm_xy[chosen], *asked])
    expected = np.unique(np.concatenate([coarse.points_norm_xy[chosen], point_grid(side)]), axis=0)
    assert len(everything) == len(expected)
    np.testing.assert_array_equal(np.unique(everything, axis=0), expected)


def test_a_shared_gallery_has_object_masks_and_best_masks_alone() -> None:
    masks = overlapping_masks(3, SIDE**2)
    masks.is_best[:] = np.random.default_rng(0).random(len(masks)) < 0.3
    coarse = PromptSet.grid(SIDE, GEOMETRY, lambda points: masks)
    coarse.ask_all()
    gallery = shared_gallery(coarse, 32, GEOMETRY, lambda points: masks, budget())
    kept = (masks.level == Level.OBJECT) | masks.is_best
    assert 0 < kept.sum() < len(masks)
    np.testing.assert_array_equal(np.sort(gallery.masks.predicted_iou), np.sort(masks.predicted_iou[kept]))
