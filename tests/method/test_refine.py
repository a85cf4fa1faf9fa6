"""Boundaries that follow the photo, against a guided filter written out in plain NumPy."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from esam_rt.masks import MaskSet
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.refine import Guide, paint_refined, rows_without_noise
from esam_rt.sam.geometry import Geometry
from esam_rt.settings import Render
from esam_rt.stages import Stage
from tests.kernels.oracles import without_noise

GEOMETRY = Geometry.of((48, 64), 64)  # a grid of 12 x 16 cells
H, W = GEOMETRY.grid_hw


def windows(radius: int) -> list[list[tuple[slice, slice]]]:
    def span(i: int, n: int) -> slice:
        return slice(max(0, i - radius), min(n, i + radius + 1))

    return [[(span(y, H), span(x, W)) for x in range(W)] for y in range(H)]


def dense_guided(
    color: NDArray[np.float64], p: NDArray[np.float64], radius: int, epsilon: float
) -> NDArray[np.float64]:
    """Linear models float64 [H, W, 4], cell by cell: ridge regression in each window, then the mean over windows."""
    fitted, of = np.zeros((H, W, 4)), windows(radius)
    for y, x in itertools.product(range(H), range(W)):
        c, q = color[of[y][x]].reshape(-1, 3), p[of[y][x]].ravel()
        cov = (c - c.mean(0)).T @ (c - c.mean(0)) / len(c) + epsilon * np.eye(3)
        a = np.linalg.solve(cov, (c - c.mean(0)).T @ (q - q.mean()) / len(c))
        fitted[y, x] = *a, q.mean() - a @ c.mean(0)
    return np.array([[fitted[of[y][x]].reshape(-1, 4).mean(0) for x in range(W)] for y in range(H)])


def random_photo(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("radius", [0.05, 0.2, 0.5])
def test_models_are_those_of_a_dense_guided_filter(radius: float) -> None:
    rng = np.random.default_rng(0)
    photo = random_photo(0)
    settings = Render(radius=radius, epsilon=1e-3)
    guide = Guide(photo, GEOMETRY, settings)
    color = photo.reshape(H, 4, W, 4, 3).mean((1, 3)).round() / 255
    p = np.zeros((H, W), np.float32)
    p[5:8, 6:10] = rng.random((3, 4))
    expected = dense_guided(color, p.astype(np.float64), guide.radius, 1e-3)
    whole, cropped = np.empty((H, W, 4), np.float32), np.empty((5, 6, 4), np.float32)
    guide.fit(p, (0, 0, W, H), (0, 0, W, H), whole)
    np.testing.assert_allclose(whole * (255, 255, 255, 1), expected, atol=2e-3)
    guide.fit(p[5:8, 6:10], (6, 5, 10, 8), (5, 4, 11, 9), cropped)
    np.testing.assert_allclose(cropped, whole[4:9, 5:11], atol=1e-4)


def entities_of(masks: NDArray[np.bool_]) -> GridEntities:
    return GridEntities.by_score(MaskSet.from_bool(masks), Stage.EMR, 1)


def refined(
    photo: NDArray[np.uint8], masks: NDArray[np.bool_], logits: NDArray[np.float32], settings: Render
) -> NDArray[np.uint16]:
    labels = np.full(photo.shape[:2], 777, np.uint16)
    boxes = np.tile(np.array([0, 0, W, H], np.int32), (len(masks), 1))
    none = -logits.max(axis=0, initial=-1)
    paint_refined(labels, photo, entities_of(masks), list(logits), boxes, none, GEOMETRY, settings)
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_maps_match_dense_filters_of_all_entities(seed: int) -> None:
    """Four entities and empty cells: the softmax of the logits, filtered densely, the highest near its own cells."""
    rng = np.random.default_rng(seed)
    photo, settings = random_photo(seed), Render(radius=0.15, epsilon=1e-3, reach=2)
    noise = np.stack([cv2.GaussianBlur(rng.normal(size=(H, W)), (0, 0), 2) * 12 for _ in range(4)])
    owner = np.where(noise.max(0) > 0, noise.argmax(0) + 1, 0)
    masks = np.stack([owner == k for k in range(1, 5)])
    logits = np.where(masks, np.maximum(noise, 1e-3), np.minimum(noise, -1e-3)).astype(np.float32)
    labels = refined(photo, masks, logits, settings)

    planes = np.concatenate([-logits.max(0, keepdims=True), logits]).astype(np.float64)
    p = np.exp(planes) / np.exp(planes).sum(0)
    x, y, w, h = cv2.boundingRect((owner == 0).astype(np.uint8))
    near_empty = np.zeros((H, W), bool)  # "no entity" is a crop as well
    near_empty[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1] = True
    p[0] *= near_empty
    color = photo.reshape(H, 4, W, 4, 3).mean((1, 3)).round() / 255
    at_y = np.clip((np.arange(48) + 0.5) / 4 - 0.5, 0, H - 1)[:, None]
    at_x = np.clip((np.arange(64) + 0.5) / 4 - 0.5, 0, W - 1)[None]
    iy, ix = np.floor(at_y).astype(int), np.floor(at_x).astype(int)
    jy, jx = np.minimum(iy + 1, H - 1), np.minimum(ix + 1, W - 1)
    fy, fx = (at_y - iy)[..., None], (at_x - ix)[..., None]
    values, smooth = [], without_noise(photo)
    for k in range(5):
        m = dense_guided(color, p[k], max(1, round(0.15 * W)), 1e-3)
        at = (m[iy, ix] * (1 - fx) + m[iy, jx] * fx) * (1 - fy) + (m[jy, ix] * (1 - fx) + m[jy, jx] * fx) * fy
        window = np.ones((3, 3))
        core = ndimage.binary_erosion(owner == k, window, border_value=1)
        thin = (owner == k) & ~ndimage.binary_dilation(core, window)
        part, _ = ndimage.label(thin, window)
        for i, place in enumerate(ndimage.find_objects(part)):
            thin &= (part != i + 1) | (max(s.stop - s.start for s in place) >= 8)
        upper, lower = (thin[i, ix] * (1 - fx[..., 0]) + thin[i, jx] * fx[..., 0] for i in (iy, jy))
        bonus = 0.25 * (upper * (1 - fy[..., 0]) + lower * fy[..., 0])
        near = cv2.dilate((owner == k).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        around = near[iy, ix] | near[iy, jx] | near[jy, ix] | near[jy, jx]
        values.append(np.where(around, (at[..., :3] * smooth / 255).sum(2) + at[..., 3] + bonus, -np.inf))
    second, first = np.sort(np.array(values), axis=0)[-2:]
    clear = first - second > 2e-3
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[clear], np.argmax(values, axis=0)[clear])


def test_a_boundary_moves_to_the_edge_of_the_photo() -> None:
    photo = np.full((48, 64, 3), 40, np.uint8)
    photo[:, 29:] = (200, 160, 90)  # the edge lies 3 pixels beside that of the cells
    masks = np.zeros((2, H, W), bool)
    masks[0, :, :8], masks[1, :, 8:] = True, True
    logits = np.where(masks, np.float32(3), np.float32(-3))
    labels = refined(photo, masks, logits, Render())
    assert (labels == np.where(np.arange(64) < 29, 1, 2)).all()


def test_without_an_edge_contradicted_cells_are_divided_midway() -> None:
    photo = np.full((48, 64, 3), 90, np.uint8)
    masks = np.zeros((2, H, W), bool)
    masks[0, :, :8], masks[1, :, 8:] = True, True
    logits = np.where(masks, np.float32(1e-3), np.float32(-1e-3))  # as if the map contradicted every logit
    assert (refined(photo, masks, logits, Render()) == np.where(np.arange(64) < 32, 1, 2)).all()


def test_teeth_of_a_mask_leave_no_comb_where_the_photo_is_flat() -> None:
    photo = np.full((48, 64, 3), 90, np.uint8)
    masks = np.zeros((2, H, W), bool)
    masks[0, :, :8] = True
    masks[0, 1::4, 8:10] = True  # teeth of one cell
    masks[1] = ~masks[0]
    labels = refined(photo, masks, np.where(masks, np.float32(2), np.float32(-2)), Render())
    edge = (labels == 1).sum(axis=1)
    assert np.ptp(edge) <= 2
    assert (np.diff(labels.astype(int)) >= 0).all()


def test_no_entities_leave_an_empty_map() -> None:
    labels = refined(random_photo(0), np.zeros((0, H, W), bool), np.zeros((0, H, W), np.float32), Render())
    assert (labels == 0).all()


def test_a_line_thinner_than_a_cell_stays_whole() -> None:
    """Its color differs little from one of the two regions that it crosses."""
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(64) < 30, 1, 2) * np.ones((48, 1), int)
    truth[22:24] = 3
    colors = np.array([(0, 0, 0), (90, 90, 90), (200, 60, 30), (104, 96, 90)])
    photo = np.clip(colors[truth] + rng.normal(0, 3, (48, 64, 3)), 0, 255).astype(np.uint8)
    cells = truth.reshape(H, 4, W, 4)
    owner = np.where((cells == 3).any((1, 3)), 3, cells[:, 2, :, 2])
    masks = np.stack([owner == k for k in (1, 2, 3)])
    labels = refined(photo, masks, np.where(masks, np.float32(2), np.float32(-2)), Render())
    assert (labels[truth == 3] == 3).mean() > 0.95


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (31, 17)])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_rows_lose_their_noise_as_in_the_whole_photo(shape: tuple[int, int], rows: int) -> None:
    photo = np.random.default_rng(rows).integers(0, 256, (*shape, 3)).astype(np.uint8)
    h = shape[0]
    found = [rows_without_noise(photo, y, min(y + rows, h)) for y in range(0, h, rows)]
    assert np.abs(np.concatenate(found, axis=1).transpose(1, 2, 0) - without_noise(photo)).max() <= 1
