"""The whole pipeline with adaptive prompts, on scenes whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt import EntityMap, EntitySegmenter, Settings
from esam_rt.stages import Stage
from tests.support.fake_clock import FakeClock
from tests.support.scene import ROW, SIDE, Scene, photo_of, quadrants

GRIDS: dict[str, object] = {"prompts.coarse_side": 16, "prompts.fine_side": 32}
FEW_AGREE: dict[str, object] = {"prompts.strategy": "adaptive", "adaptive.agree": 8}


def segmented(
    scene: Scene, photo: NDArray[np.uint8], changes: Mapping[str, object], **options: Any
) -> tuple[EntityMap, list[NDArray[np.float32]]]:
    """The entities of a photo, and the points that the decoder was given for masks."""
    sam, asked = scene.sam(), list[NDArray[np.float32]]()
    decode = sam.decode

    def watch(encoded: Any, points: NDArray[np.float32], *rest: Any, **more: Any) -> Any:
        asked.append(points)
        return decode(encoded, points, *rest, **more)

    sam.decode = watch  # type: ignore[method-assign]
    settings = Settings().with_overrides({**GRIDS, **changes})
    with EntitySegmenter(sam, settings=settings) as segment:
        return segment(photo, **options), asked


def test_known_objects_are_the_same_as_with_the_grid_for_a_third_of_the_prompts() -> None:
    maps = quadrants()
    scene, photo = Scene.of_label_maps(maps), photo_of(maps[0])
    whole, _ = segmented(scene, photo, {"prompts.strategy": "grid"})
    adaptive, asked = segmented(scene, photo, {**FEW_AGREE, "adaptive.wave": 16})
    assert len(whole) == 4
    np.testing.assert_array_equal(adaptive.labels, whole.labels)
    assert 3 * adaptive.prompts_decoded < whole.prompts_decoded
    assert adaptive.prompts_decoded == sum(map(len, asked))
    assert (adaptive.complete, adaptive.completed_stages) == (True, (Stage.MMG, Stage.EMR, Stage.USR))


def test_fast_leaves_out_points_of_large_objects() -> None:
    maps = quadrants()
    scene, photo = Scene.of_label_maps(maps), photo_of(maps[0])
    with EntitySegmenter(scene.sam(), settings=Settings.preset("fast")) as segment:
        fast = segment(photo)
    whole, _ = segmented(scene, photo, {"prompts.strategy": "grid"})
    np.testing.assert_array_equal(fast.labels, whole.labels)
    assert fast.prompts_decoded < whole.prompts_decoded


def test_an_object_under_one_point_of_the_grid_is_found() -> None:
    maps = quadrants()
    maps[:, 20:24, 8:12] = 9  # 16 cells, the square of one of 16 × 16 points
    scene, photo = Scene.of_label_maps(maps), photo_of(maps[0])
    adaptive, _ = segmented(scene, photo, {"prompts.strategy": "adaptive", "adaptive.agree": 2, "adaptive.wave": 8})
    assert len(adaptive) == 5
    small = adaptive.labels == adaptive.labels[88, 40]
    assert small[81:95, 33:47].all()  # the corners of 4 × 4 pixels are rounded
    assert 250 <= np.count_nonzero(small) <= 256


def overlapping_scene() -> tuple[Scene, NDArray[np.uint8]]:
    """Two objects overlap in a quarter of the photo; three quarters of the prompts there see the left one."""
    columns = np.arange(SIDE)
    left, right = columns < SIDE * 5 // 8, columns >= SIDE * 3 // 8
    sees_left = np.tile(columns < SIDE * 9 // 16, SIDE)
    objects = np.where(sees_left[:, None], left, right)[:, None, :].repeat(SIDE, axis=1)
    scene = Scene(np.stack([objects] * 3), np.full((SIDE * SIDE, 3), 0.95, np.float32))
    return scene, photo_of(np.tile(left + 1, (SIDE, 1)))


def test_coarse_prompts_vote_and_the_overlap_goes_to_the_same_object() -> None:
    scene, photo = overlapping_scene()
    whole, _ = segmented(scene, photo, {"prompts.strategy": "grid", "emr.gallery": "exact"})
    changes = {"prompts.strategy": "adaptive", "adaptive.agree": 256, "adaptive.votes": 16}
    adaptive, asked = segmented(scene, photo, changes)
    np.testing.assert_array_equal(adaptive.labels, whole.labels)
    fine = sum(map(len, asked)) - 16**2
    assert 0 <= fine < 16  # the coarse prompts of the overlap are enough for its votes
    points = np.concatenate(asked)
    assert len(np.unique(points, axis=0)) == len(points)


def noisy_scene(seed: int) -> tuple[Scene, NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    maps = np.stack([rng.integers(0, 7, (n, n)).repeat(SIDE // n, 0).repeat(SIDE // n, 1) for n in (4, 8, 16)])
    scene = Scene.of_label_maps(maps)
    scene.score[:] = rng.uniform(0.7, 1.0, scene.score.shape)
    return scene, photo_of(maps[2], seed=seed)


@pytest.mark.parametrize("gallery", ["lazy", "exact"])
@pytest.mark.parametrize("seed", range(3))
def test_maps_are_disjoint_and_repeat(seed: int, gallery: str) -> None:
    scene, photo = noisy_scene(seed)
    changes = {"prompts.strategy": "adaptive", "adaptive.agree": 3, "adaptive.wave": 20, "emr.gallery": gallery}
    first, asked = segmented(scene, photo, changes)
    again, _ = segmented(scene, photo, changes)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert set(np.unique(first.labels)) - {0} == set(range(1, len(first) + 1))
    assert first.prompts_decoded == sum(map(len, asked))
    assert first.complete


def test_a_deadline_far_away_leaves_out_points_too() -> None:
    maps = quadrants()
    scene, photo = Scene.of_label_maps(maps), photo_of(maps[0])
    adaptive, _ = segmented(scene, photo, FEW_AGREE, deadline_s=1e6)
    whole, _ = segmented(scene, photo, {"prompts.strategy": "grid"}, deadline_s=1e6)
    np.testing.assert_array_equal(adaptive.labels, whole.labels)
    assert adaptive.complete
    assert 2 * adaptive.prompts_decoded < whole.prompts_decoded


def test_every_deadline_gives_a_valid_map() -> None:
    scene, photo = noisy_scene(6)
    clock, settings = FakeClock(), Settings().with_overrides(GRIDS)
    with EntitySegmenter(clock.sam(scene), settings=settings, clock=clock) as segment:
        segment(photo)
        for deadline_s in np.geomspace(0.03, 3, 25):
            start = clock()
            result = segment(photo, deadline_s=float(deadline_s))
            assert clock() - start <= deadline_s + clock.prompt_s * ROW.decode_batch
            assert set(np.unique(result.labels)) - {0} == set(range(1, len(result) + 1))
    assert result.complete


def test_the_numbers_of_adaptive_prompts_change_nothing_of_the_grid() -> None:
    scene, photo = noisy_scene(5)
    grid: dict[str, object] = {"prompts.strategy": "grid"}
    plain, _ = segmented(scene, photo, grid)
    other, _ = segmented(scene, photo, {**grid, "adaptive.agree": 1, "adaptive.votes": 1, "adaptive.wave": 1})
    assert plain.prompts_decoded == other.prompts_decoded
    np.testing.assert_array_equal(plain.labels, other.labels)


def test_sams_own_mask_generation_keeps_the_whole_grid() -> None:
    maps = quadrants()
    settings = Settings().with_overrides({**GRIDS, "prompts.strategy": "adaptive"})
    with EntitySegmenter(Scene.of_label_maps(maps).sam(), settings=settings, method="amg") as segment:
        assert segment(photo_of(maps[0])).prompts_decoded == 256
