from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from esam_rt.kernels.upsample import paint


def random_entities(
    rng: np.random.Generator, count: int, grid_h: int, grid_w: int, values: Callable[[tuple[int, int]], NDArray[Any]]
) -> tuple[list[NDArray[np.float32]], NDArray[np.int32]]:
    crops, boxes = [], []
    for _ in range(count):
        x0, y0 = rng.integers(grid_w), rng.integers(grid_h)
        x1, y1 = rng.integers(x0, grid_w) + 1, rng.integers(y0, grid_h) + 1
        crops.append(values((y1 - y0, x1 - x0)).astype(np.float32))
        boxes.append((x0, y0, x1, y1))
    return crops, np.array(boxes, np.int32).reshape(-1, 4)


def painted(
    crops: list[NDArray[np.float32]],
    boxes: NDArray[np.int32],
    shape: tuple[int, int],
    grid: tuple[int, int],
    scale: tuple[float, float] | None = None,
    none: NDArray[np.float32] | None = None,
) -> NDArray[np.uint16]:
    labels = np.full(shape, 777, np.uint16)
    scale_y, scale_x = scale or (grid[0] / shape[0], grid[1] / shape[1])
    offset = np.cumsum([0] + [c.size for c in crops])[:-1]
    fields = np.concatenate([c.ravel() for c in crops]) if crops else np.zeros(0, np.float32)
    paint(labels, fields, offset, boxes, np.zeros(grid, np.float32) if none is None else none, scale_y, scale_x)
    return labels


def interpolated(
    crops: list[NDArray[np.float32]],
    boxes: NDArray[np.int32],
    shape: tuple[int, int],
    grid: tuple[int, int],
    scale: tuple[float, float] | None = None,
    none: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """float64 [1 + E, H, W]: no entity's, then each one's logits at every pixel, -inf where it may not compete."""
    scale_y, scale_x = scale or (grid[0] / shape[0], grid[1] / shape[1])
    y = np.clip((np.arange(shape[0]) + 0.5) * scale_y - 0.5, 0, grid[0] - 1)[:, None]
    x = np.clip((np.arange(shape[1]) + 0.5) * scale_x - 0.5, 0, grid[1] - 1)[None]
    iy, ix = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(iy + 1, grid[0] - 1), np.minimum(ix + 1, grid[1] - 1)

    def at_pixels(full: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        top = full[iy, ix] * (1 - (x - ix)) + full[iy, right] * (x - ix)
        bottom = full[below, ix] * (1 - (x - ix)) + full[below, right] * (x - ix)
        return np.asarray(top * (1 - (y - iy)) + bottom * (y - iy), np.float64)

    out = [at_pixels(np.zeros(grid) if none is None else none)]
    for crop, (x0, y0, x1, y1) in zip(crops, boxes, strict=True):
        full = np.full(grid, -1.0)
        full[y0:y1, x0:x1] = crop
        around = np.maximum.reduce([full[r, c] for r in (iy, below) for c in (ix, right)])
        out.append(np.where(around > 0, at_pixels(full), -np.inf))
    return np.array(out)


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (9, 1), (7, 13)])
@pytest.mark.parametrize("factor", [1, 4, 16, 0.5])
def test_whole_numbers_and_powers_of_two_are_painted_exactly(grid: tuple[int, int], factor: float) -> None:
    rng = np.random.default_rng(0)
    shape = tuple(max(1, int(n * factor)) for n in grid)
    for count in (0, 1, 6):
        crops, boxes = random_entities(rng, count, *grid, lambda s: rng.integers(-3, 4, s))
        scale = (1 / factor, 1 / factor)
        # argmax takes the first of equals: no entity, then the lowest
        expected = interpolated(crops, boxes, shape, grid, scale).argmax(0)
        np.testing.assert_array_equal(painted(crops, boxes, shape, grid, scale), expected)


@pytest.mark.parametrize(("grid", "shape"), [((12, 16), (301, 399)), ((30, 20), (97, 61)), ((20, 30), (7, 11))])
def test_any_logits_and_scales(grid: tuple[int, int], shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    crops, boxes = random_entities(rng, 12, *grid, lambda s: rng.normal(size=s) * 4)
    logits = interpolated(crops, boxes, shape, grid)
    labels = painted(crops, boxes, shape, grid)
    second, first = np.sort(logits, axis=0)[-2:]
    clear = first - second > 1e-4  # float32 decides the others
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(labels[clear], logits.argmax(0)[clear])
    assert len(np.unique(labels)) > 5


@pytest.mark.parametrize("seed", range(6))
def test_none_has_logits_of_its_own(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid, shape = (12, 16), (97, 130)
    crops, boxes = random_entities(rng, 8, *grid, lambda s: rng.normal(size=s) * 4)
    none = (rng.normal(size=grid) * 4 - 2).astype(np.float32)
    logits = interpolated(crops, boxes, shape, grid, none=none)
    labels = painted(crops, boxes, shape, grid, none=none)
    second, first = np.sort(logits, axis=0)[-2:]
    clear = first - second > 1e-4
    np.testing.assert_array_equal(labels[clear], logits.argmax(0)[clear])
    negative = np.take_along_axis(logits, labels[None].astype(int), 0)[0] < 0
    assert (negative & (labels > 0)).any(), "an entity wins with a negative logit where none's is lower still"


def test_no_third_slips_in_between_two_that_meet() -> None:
    a, b, c = np.array([[6, -8]], np.float32), np.array([[-8, 6]], np.float32), np.array([[-0.1, -0.1]], np.float32)
    labels = painted([c, a, b], np.array([[0, 0, 2, 1]] * 3), (1, 32), (1, 2), none=np.full((1, 2), -6, np.float32))
    assert labels[0].tolist() == [2] * 16 + [3] * 16


def test_the_boundary_lies_where_the_logits_cross_zero() -> None:
    # +1 and -1 in neighbouring cells of 16 px: zero half-way between their centres, on the edge of the cells.
    labels = painted([np.array([[1, -1]], np.float32)], np.array([[0, 0, 2, 1]]), (1, 32), (1, 2))
    assert labels[0].tolist() == [1] * 16 + [0] * 16


def test_a_crop_reaches_half_a_cell_into_its_rim_when_its_logits_are_high() -> None:
    labels = painted([np.full((1, 1), 3, np.float32)], np.array([[1, 1, 2, 2]]), (24, 24), (3, 3))
    rows, columns = np.nonzero(labels)
    # 3 falls to -1 within a cell of 8 px: 0 is crossed 6 px from the centre at 12 px
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 17, 6, 17)


def test_beyond_the_outer_cell_centres_the_logits_go_on() -> None:
    labels = painted([np.full((2, 2), 1, np.float32)], np.array([[0, 0, 2, 2]]), (10, 10), (2, 2))
    assert (labels == 1).all()


def test_the_lowest_of_equals_wins() -> None:
    crops = [np.full((2, 2), 2, np.float32)] * 3
    labels = painted(crops, np.array([[1, 0, 3, 2], [0, 0, 2, 2], [0, 0, 2, 2]]), (8, 12), (2, 3))
    expected = interpolated(crops, np.array([[1, 0, 3, 2], [0, 0, 2, 2], [0, 0, 2, 2]]), (8, 12), (2, 3)).argmax(0)
    np.testing.assert_array_equal(labels, expected)
    assert set(np.unique(labels)) == {1, 2}
