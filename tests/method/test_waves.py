"""Waves of prompts: what is decoded, in which order, and that the order changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.masks import MaskSet
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.time_budget import Costs, TimeBudget
from esam_rt.method.waves import FIRST_WAVE, LARGEST_WAVE, all_at_once, decode_waves, farthest_first
from esam_rt.sam.geometry import Geometry

SIDE = 16
GEOMETRY = Geometry((64, 64), (256, 256), (64, 64))
Decode = Callable[[NDArray[np.float32]], MaskSet]


def decoder(seed: int, asked: list[NDArray[np.float32]] | None = None) -> Decode:
    """A box around each prompt, of a size that depends on the prompt; some prompts have no mask, some have three."""
    radius = np.random.default_rng(seed).integers(1, 12, (64, 64))
    y, x = np.indices((64, 64))

    def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
        if asked is not None:
            asked.append(points_norm_xy)
        cells = GEOMETRY.to_cell_yx(points_norm_xy)
        size = radius[tuple(cells.T)]
        index = np.repeat(np.arange(len(cells)), size % 4)
        order = np.concatenate([np.arange(n) for n in [0, *(size % 4)]])
        masks = [
            (abs(y - cells[i, 0]) <= size[i] - k // 2) & (abs(x - cells[i, 1]) <= size[i])
            for i, k in zip(index, order, strict=True)
        ]
        return MaskSet.from_bool(np.array(masks, bool).reshape(-1, 64, 64), prompt_index=index)

    return decode


def same(a: MaskSet, b: MaskSet) -> None:
    for x, y in zip(vars(a).values(), vars(b).values(), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("seed", range(3))
def test_masks_do_not_depend_on_the_waves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(SIDE**2)

    def some(prompts: PromptSet) -> NDArray[np.int64]:
        left = order[~prompts.is_decoded[order]]
        return left[: rng.integers(1, 60)]

    whole, waves = (PromptSet.grid(SIDE, GEOMETRY, decoder(seed)) for _ in range(2))
    whole.ask_all()
    decode_waves(waves, some)
    assert waves.is_decoded.all()
    same(whole.masks, waves.masks)


def test_a_strategy_leaves_out_prompts() -> None:
    asked: list[NDArray[np.float32]] = []
    seen: list[int] = []

    def left_half(prompts: PromptSet) -> NDArray[np.int64]:
        seen.append(len(prompts.masks))
        wanted = ~prompts.is_decoded & (prompts.points_norm_xy[:, 0] < 0.5)
        return prompts.order[wanted[prompts.order]][:32]

    prompts = PromptSet.grid(SIDE, GEOMETRY, decoder(0, asked))
    decode_waves(prompts, left_half)
    assert [len(points) for points in asked] == [32] * 4
    assert seen[0] == 0
    assert sorted(seen) == seen
    assert prompts.is_complete
    np.testing.assert_array_equal(prompts.is_decoded, prompts.points_norm_xy[:, 0] < 0.5)


def test_without_a_deadline_the_grid_is_one_call_in_order() -> None:
    asked: list[NDArray[np.float32]] = []
    prompts = PromptSet.grid(SIDE, GEOMETRY, decoder(1, asked), TimeBudget(Costs(), (64, 64), batch_size=4))
    decode_waves(prompts, all_at_once)
    assert len(asked) == 1
    np.testing.assert_array_equal(asked[0], prompts.points_norm_xy)


@pytest.mark.parametrize("seed", range(3))
def test_each_wave_takes_the_farthest_prompts(seed: int) -> None:
    """Oracle: distances of all pairs of cells, one prompt after the other."""
    prompts = PromptSet.grid(SIDE, GEOMETRY, decoder(seed))
    strategy = farthest_first(all_at_once)
    first = strategy(prompts)
    np.testing.assert_array_equal(first, prompts.order[:FIRST_WAVE])
    prompts.ask(first)
    waves = []
    while len(wave := strategy(prompts)):
        decoded = int(prompts.is_decoded.sum())
        assert len(wave) == min(decoded, LARGEST_WAVE, SIDE**2 - decoded)
        known = prompts.masks.to_bool().any(0)
        known[tuple(prompts.cells_yx[prompts.is_decoded].T)] = True
        for prompt in wave[:20]:
            cells = np.argwhere(known)
            left = np.flatnonzero(~known[tuple(prompts.cells_yx.T)] & ~prompts.is_decoded)
            distance = np.linalg.norm(prompts.cells_yx[left, None] - cells[None], axis=2).min(1)
            own = np.linalg.norm(prompts.cells_yx[prompt] - cells, axis=1).min()
            assert own == pytest.approx(distance.max(initial=0), abs=1e-3)
            known[tuple(prompts.cells_yx[prompt])] = True
        waves.append(wave)
        prompts.ask(wave)
    everything = np.concatenate([first, *waves])
    np.testing.assert_array_equal(np.sort(everything), np.arange(SIDE**2))


def test_farthest_first_takes_only_what_the_strategy_wants() -> None:
    def every_third(prompts: PromptSet) -> NDArray[np.int64]:
        wanted = ~prompts.is_decoded
        wanted[np.arange(SIDE**2) % 3 > 0] = False
        return np.flatnonzero(wanted)

    prompts = PromptSet.grid(SIDE, GEOMETRY, decoder(2))
    decode_waves(prompts, farthest_first(every_third))
    np.testing.assert_array_equal(prompts.is_decoded, np.arange(SIDE**2) % 3 == 0)


def test_masks_of_the_same_points_are_taken_over() -> None:
    asked: list[NDArray[np.float32]] = []
    points = np.random.default_rng(0).uniform(0, 1, (30, 2)).astype(np.float32)
    old = PromptSet(points[:20], GEOMETRY, decoder(3))
    old.ask(np.arange(20) % 2 == 0)
    new = PromptSet(points[::-1][5:].copy(), GEOMETRY, decoder(3, asked))
    new.take_over(old)
    assert new.is_decoded.sum() == 10
    new.ask_all()
    assert [len(points) for points in asked] == [15]
    whole = PromptSet(new.points_norm_xy, GEOMETRY, decoder(3))
    whole.ask_all()
    same(new.masks, whole.masks)
