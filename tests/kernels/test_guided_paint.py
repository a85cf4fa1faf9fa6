"""Painting from color models, against models that are interpolated on the whole grid."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.kernels import guided_paint
from esam_rt.kernels.guided_paint import ALONE, AWAY, NEAR, paint_guided

Crop = tuple[NDArray[np.float32], NDArray[np.uint8], tuple[int, int, int, int]]


def random_crops(rng: np.random.Generator, count: int, grid: tuple[int, int]) -> list[Crop]:
    """Crops whose rim is away from the entity, except at the edges of the grid."""
    crops = []
    for _ in range(count):
        x0, y0 = (int(rng.integers(n)) for n in grid[::-1])
        x1, y1 = int(rng.integers(x0, grid[1])) + 1, int(rng.integers(y0, grid[0])) + 1
        reach = rng.choice(np.array([AWAY, NEAR], np.uint8), (y1 - y0, x1 - x0))
        for rim, at_edge in ((reach[0], y0 == 0), (reach[-1], y1 == grid[0]), (reach[:, 0], x0 == 0)):
            rim[...] = rim if at_edge else AWAY
        reach[:, -1] = reach[:, -1] if x1 == grid[1] else AWAY
        models = rng.normal(size=(*reach.shape, 4)).astype(np.float32) / (255, 255, 255, 1)
        crops.append((models.astype(np.float32), reach, (x0, y0, x1, y1)))
    return crops


def memberships(
    image: NDArray[np.uint8], crops: list[Crop], grid: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.float64]:
    """float64 [E, H, W], -inf where an entity does not compete."""
    h, w = image.shape[:2]
    y = np.clip((np.arange(h) + 0.5) * scale[0] - 0.5, 0, grid[0] - 1)[:, None]
    x = np.clip((np.arange(w) + 0.5) * scale[1] - 0.5, 0, grid[1] - 1)[None]
    iy, ix = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(iy + 1, grid[0] - 1), np.minimum(ix + 1, grid[1] - 1)
    fy, fx = (y - iy)[..., None], (x - ix)[..., None]
    out = []
    for models, reach, (x0, y0, x1, y1) in crops:
        full, near = np.zeros((*grid, 4)), np.zeros(grid, bool)
        full[y0:y1, x0:x1], near[y0:y1, x0:x1] = models, reach != AWAY
        top = full[iy, ix] * (1 - fx) + full[iy, right] * fx
        bottom = full[below, ix] * (1 - fx) + full[below, right] * fx
        at_pixels = top * (1 - fy) + bottom * fy
        value = (at_pixels[..., :3] * image).sum(2) + at_pixels[..., 3]
        around = near[iy, ix] | near[iy, right] | near[below, ix] | near[below, right]
        out.append(np.where(around, value, -np.inf))
    return np.array(out).reshape(-1, h, w)


def painted(
    image: NDArray[np.uint8], crops: list[Crop], grid: tuple[int, int], scale: tuple[float, float]
) -> NDArray[np.uint16]:
    labels = np.full(image.shape[:2], 777, np.uint16)
    models = np.concatenate([np.zeros((0, 4), np.float32), *(m.reshape(-1, 4) for m, _, _ in crops)])
    reach = np.concatenate([np.zeros(0, np.uint8), *(r.ravel() for _, r, _ in crops)])
    offset = np.cumsum([0, *(r.size for _, r, _ in crops)])[:-1]
    box = np.array([b for *_, b in crops], np.int32).reshape(-1, 4)
    planes = image.transpose(2, 0, 1)  # not contiguous
    paint_guided(labels, lambda y0, y1: planes[:, y0:y1], models, reach, offset, box, grid, *scale)
    return labels


@pytest.mark.parametrize(
    ("grid", "shape"), [((12, 16), (97, 130)), ((1, 1), (5, 4)), ((9, 1), (30, 7)), ((8, 9), (5, 6))]
)
@pytest.mark.parametrize("strip_px", [1, 200, 1 << 18])
def test_the_highest_membership_wins(
    monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int], shape: tuple[int, int], strip_px: int
) -> None:
    monkeypatch.setattr(guided_paint, "STRIP_PX", strip_px)
    rng = np.random.default_rng(0)
    scale = grid[0] / shape[0], grid[1] / shape[1]
    for count in (0, 1, 9):
        image = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)[:, ::-1]  # not contiguous
        crops = random_crops(rng, count, grid)
        values = np.concatenate([memberships(image, crops, grid, scale), np.full((2, *shape), -np.inf)])
        expected = np.where(np.isfinite(values).any(0), values.argmax(0), 0)
        second, first = np.sort(np.where(np.isfinite(values), values, -99), axis=0)[-2:]
        clear = (first - second > 1e-4) | (first == -99)  # float32 decides the others
        assert clear.mean() > 0.98
        np.testing.assert_array_equal(painted(image, crops, grid, scale)[clear], expected[clear])


def test_an_entity_without_a_rival_gets_its_cells_whatever_their_colors() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (24, 40, 3)).astype(np.uint8)
    reach = np.zeros((3, 5), np.uint8)
    reach[:, 0], reach[:, 1] = ALONE, NEAR
    rival = np.zeros((3, 5), np.uint8)
    rival[:, 2:] = ALONE
    models = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    crops: list[Crop] = [(models[0], reach, (0, 0, 5, 3)), (models[1], rival, (0, 0, 5, 3))]
    labels = painted(image, crops, (3, 5), (1 / 8, 1 / 8))
    assert (labels[:, :4] == 0).all()
    assert (labels[:, 20:] == 1).all()
