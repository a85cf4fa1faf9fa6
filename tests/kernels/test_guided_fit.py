"""The arithmetic of the guided filter, against the formulas on whole arrays."""

from __future__ import annotations

import numpy as np
import pytest

from esam_rt.kernels.guided_fit import fit_colors, mean_models, weighted_colors

H, W = 13, 17


@pytest.mark.parametrize("box", [(0, 0, W, H), (4, 3, 9, 8), (16, 12, 17, 13)])
def test_colors_are_weighted_in_the_box_alone(box: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(0)
    color = rng.uniform(0, 255, (H, W, 3)).astype(np.float32)
    weight = np.zeros((H, W), np.float32)
    x0, y0, x1, y1 = box
    weight[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0), np.float32)
    crop = max(0, x0 - 2), max(0, y0 - 3), min(W, x1 + 4), min(H, y1 + 1)
    found = weighted_colors(color, weight[y0:y1, x0:x1], box, crop)
    expected = np.concatenate([color, np.ones((H, W, 1))], axis=2) * weight[..., None]
    np.testing.assert_array_equal(found, expected.astype(np.float32)[crop[1] : crop[3], crop[0] : crop[2]])


def test_a_fit_finds_the_model_that_made_the_weights() -> None:
    """Each cell has its own window of 30 random colors, and its own linear model."""
    rng = np.random.default_rng(1)
    colors = rng.uniform(0, 255, (H, W, 30, 3))
    models = rng.normal(size=(H, W, 4)) / (255, 255, 255, 1)
    weights = (colors * models[..., None, :3]).sum(3) + models[..., None, 3]
    centered = colors - colors.mean(2, keepdims=True)
    inverse = np.linalg.inv(np.einsum("hwki,hwkj->hwij", centered, centered) / 30)
    i, j = np.triu_indices(3)
    share = np.full((1, H, W), 1 / 30)
    statistics = np.concatenate([share, colors.mean(2).transpose(2, 0, 1), inverse[..., i, j].transpose(2, 0, 1)])
    sums = np.concatenate([(colors * weights[..., None]).sum(2), weights.sum(2)[..., None]], axis=2)
    crop = 3, 2, 12, 11
    found = np.ascontiguousarray(sums[2:11, 3:12], np.float32)
    fit_colors(found, statistics.astype(np.float32), crop)
    np.testing.assert_allclose(found * (255, 255, 255, 1), models[2:11, 3:12] * (255, 255, 255, 1), atol=2e-3)


def test_means_are_sums_by_the_cells_of_the_window() -> None:
    rng = np.random.default_rng(2)
    sums = rng.normal(size=(8, 9, 4)).astype(np.float32)
    statistics = rng.random((10, H, W), np.float32)
    out = np.full((3, 5, 4), np.nan, np.float32)
    mean_models(sums, statistics, (2, 4, 11, 12), (5, 6, 10, 9), out)
    np.testing.assert_array_equal(out, sums[2:5, 3:8] * statistics[0, 6:9, 5:10, None])
