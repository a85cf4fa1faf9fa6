"""Large photos and panoramas through the whole pipeline, with a model that sees colors."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt import EntityMap, EntitySegmenter, Settings
from esam_rt.errors import DecodingCancelledError, InputError
from esam_rt.pipeline import Pipeline
from esam_rt.sam.point_grids import point_grid
from esam_rt.segmenter import METHODS
from tests.support.scene import ColorScene
from tests.support.true_windows import cells_around
from tests.test_segmenter import check_invariants

FAST = Settings.preset("fast")


def painted(truth: NDArray[np.integer], seed: int = 0) -> tuple[NDArray[np.uint8], ColorScene]:
    """A photo with a color for each label, and a model that sees it. Label 0 is black, and no object."""
    levels = np.stack(np.meshgrid(*[[0, 80, 160, 240]] * 3), axis=-1).reshape(-1, 3)[1:]
    colors = np.random.default_rng(seed).permutation(levels)[: int(truth.max())]
    palette = np.concatenate([[[0, 0, 0]], colors]).astype(np.uint8)
    return palette[truth], ColorScene(palette)


def check_against(result: EntityMap, truth: NDArray[np.integer], cell_px: int, wraps: bool = False) -> None:
    """Away from boundaries, by a cell, each true entity has one label of its own."""
    check_invariants(result, truth.shape)
    kernel = np.ones((2 * cell_px + 1,) * 2, np.uint8)
    wide = np.pad(truth.astype(np.uint8), ((0, 0), (cell_px, cell_px)), mode="wrap" if wraps else "edge")
    edges = cv2.morphologyEx(wide, cv2.MORPH_GRADIENT, kernel)[:, cell_px:-cell_px] > 0
    pairs = np.unique(np.stack([result.labels[~edges], truth[~edges]]), axis=1)
    assert len(np.unique(pairs[1])) == pairs.shape[1] == len(np.unique(pairs[0]))
    assert set(pairs[1]) >= set(np.unique(truth)) - {0}


@pytest.mark.parametrize("method", ["e-sam", "amg"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_seam_shows_and_small_things_are_found(method: str, seed: int) -> None:
    """The whole photo has cells of 8 pixels, and squares of 20 pixels are too small there. Tiles have 4 pixels."""
    rng = np.random.default_rng(seed)
    truth = cells_around((512, 512), 12, rng, wraps=False) + 1
    for i, x in enumerate(range(30, 500, 90)):
        truth[x : x + 20, x + 10 : x + 30] = 20 + i
    photo, scene = painted(truth, seed)
    settings = FAST.with_overrides({"tiles.side_px": 256, "tiles.small": 0.01})
    with EntitySegmenter(scene.sam(), settings=settings, method=method) as segment:
        result = segment(photo)
    assert scene.encoded == 1 + 9
    check_against(result, truth, 4)
    with EntitySegmenter(scene.sam(), settings=FAST, method=method) as segment:
        assert len(segment(photo)) < len(result)
    assert "joining" in result.times_s


@pytest.mark.parametrize("tiles", [{}, {"tiles.side_px": 256}])
def test_an_entity_of_a_panorama_wraps_around(tiles: dict[str, int]) -> None:
    rng = np.random.default_rng(2)
    truth = cells_around((256, 512), 10, rng, wraps=True) + 1
    truth[100:150, :40] = truth[100:150, 480:] = 20
    photo, scene = painted(truth)
    settings = FAST.with_overrides({"panorama.enabled": True, **tiles})
    with EntitySegmenter(scene.sam(), settings=settings) as segment:
        result = segment(photo)
    check_against(result, truth, 10, wraps=True)
    wrapped = result.labels[125, 0]
    assert wrapped > 0 and wrapped == result.labels[125, 511]
    assert result.box_xyxy[wrapped - 1, [0, 2]].tolist() == [0, 512]


def test_other_photos_are_no_panoramas() -> None:
    photo, scene = painted(np.ones((100, 100), np.int64))
    with (
        EntitySegmenter(scene.sam(), settings=FAST.with_overrides({"panorama.enabled": True})) as segment,
        pytest.raises(InputError, match="twice as wide as high"),
    ):
        segment(photo)


def test_poles_get_fewer_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, scene = painted(np.ones((256, 512), np.int64))
    asked: list[NDArray[np.float32]] = []
    decode = scene.decode

    def counting(feed: Any) -> Any:
        asked.append(feed["points_xy_px"][:, 0])
        return decode(feed)

    monkeypatch.setattr(scene, "decode", counting)
    settings = FAST.with_overrides({"panorama.enabled": True, "panorama.overlap": 0})
    with EntitySegmenter(scene.sam(), settings=settings, method="amg") as segment:
        segment(photo)
    grid = len(point_grid(16, (np.pi / 2, -np.pi / 2)))
    rows = np.unique(np.concatenate(asked)[:grid, 1], return_counts=True)[1]
    assert len(rows) == 16
    assert (rows[0], rows[-1], rows[7]) == (2, 2, 16)


@pytest.mark.parametrize("method", METHODS)
def test_closing_stops_between_tiles(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, scene = painted(cells_around((256, 256), 5, np.random.default_rng(0), wraps=False))
    seen = []

    def close_later(self: Pipeline, of_method: str) -> EntityMap:
        seen.append(of_method)
        segment.close()
        return EntityMap.from_labels(np.ones(self._orig_hw, np.uint16), np.ones(1), np.ones(1))

    monkeypatch.setattr(Pipeline, "run", close_later)
    settings = FAST.with_overrides({"tiles.crop_n_layers": 1})
    segment = EntitySegmenter(scene.sam(), settings=settings, method=method)
    with pytest.raises(DecodingCancelledError):
        segment(photo)
    assert seen == [method]


def test_tiles_share_the_time_of_a_deadline() -> None:
    photo, scene = painted(cells_around((256, 256), 5, np.random.default_rng(0), wraps=False))
    settings = FAST.with_overrides({"tiles.crop_n_layers": 1, "prompts.strategy": "grid"})
    with EntitySegmenter(scene.sam(), settings=settings) as segment:
        whole = segment(photo)
        assert whole.complete and set(whole.times_s) >= {"encoder", "decoder", "joining"}
        assert whole.prompts_decoded > 5 * 16**2
        segment(photo, deadline_s=1e-6)  # learns what the encoder costs
        cut = segment(photo, deadline_s=1e-6)
        assert not cut.complete and cut.labels.shape == photo.shape[:2]
        unhurried = segment(photo, deadline_s=1e6)
    assert unhurried.complete and np.array_equal(unhurried.labels, whole.labels)
