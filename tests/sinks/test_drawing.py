"""Drawing and neighbors, against plain Python and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from esam_rt.sinks.drawing import tint
from esam_rt.sinks.palette import _neighbors


def near(labels: NDArray[np.uint16], count: int, reach: int = 4) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(count + 1)]
    for (y, x), a in np.ndenumerate(labels):
        for dy, dx in [(d, 0) for d in range(1, reach + 1)] + [(0, d) for d in range(1, reach + 1)]:
            if y + dy < labels.shape[0] and x + dx < labels.shape[1]:
                b = labels[y + dy, x + dx]
                if a and b and a != b:
                    found[a].add(int(b))
                    found[b].add(int(a))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_neighbors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, block = int(rng.choice([1, 4, 60, 1500])), int(rng.choice([1, 2, 5]))
    labels = rng.integers(0, count + 1, rng.integers(1, 14, 2)).astype(np.uint16).repeat(block, 0).repeat(block, 1)
    assert [set(one.tolist()) for one in _neighbors(labels, count)] == near(labels, count)


@pytest.mark.parametrize("seed", range(4))
def test_tint_mixes_colors_and_outlines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (8, 7)).astype(np.uint16).repeat(12, 0).repeat(13, 1)
    image = rng.integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    colors = rng.integers(0, 256, (5, 3)).astype(np.uint8)
    image[:30], colors[1:3] = 255, 255  # the sum of photo and color is 255 at most
    cross = ndimage.generate_binary_structure(2, 1)
    least = ndimage.minimum_filter(labels, footprint=cross, mode="nearest")
    most = ndimage.maximum_filter(labels, footprint=cross, mode="nearest")
    from_border = ndimage.distance_transform_edt(least == most)
    line, inside = (labels > least) & (labels > 0), labels > 0
    drawn = tint(image, labels, colors).astype(float)

    def mixed(share: float) -> NDArray[np.float64]:
        return np.asarray((1 - share) * image + share * colors[labels])

    assert np.array_equal(drawn[~inside], image[~inside])
    assert np.abs(drawn - mixed(0.85))[inside & ~line & (from_border <= 1)].max() <= 1  # the band of color
    assert np.abs(drawn - mixed(0.3))[inside & (from_border >= 3)].max() <= 1
    between = inside & (from_border > 1) & (from_border < 3)
    low, high = np.minimum(mixed(0.3), mixed(0.85)), np.maximum(mixed(0.3), mixed(0.85))
    assert ((drawn >= low - 1) & (drawn <= high + 1))[between].all()
    assert np.abs(drawn - (mixed(0.85) + 11 * 255) / 12)[line].max() <= 1
    in_place = image.copy()
    assert tint(in_place, labels, colors, in_place) is in_place
    assert np.array_equal(in_place, drawn)


def test_a_wide_photo_is_drawn_in_strips_without_seams() -> None:
    labels = np.ones((40, 20_000), np.uint16)  # strips of 16 rows
    labels[10:30, 50:19_000] = 2
    image = np.full((*labels.shape, 3), 90, np.uint8)
    colors = np.array([[0, 0, 0], [200, 40, 40], [40, 40, 200]], np.uint8)
    drawn = tint(image, labels, colors)
    assert drawn.shape == image.shape
    assert (np.ptp(drawn[:, 1000:18_000].astype(int), axis=1) == 0).all()  # rows are alike along the bar
