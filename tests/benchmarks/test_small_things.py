"""Squares that are found, against a slow count."""

from __future__ import annotations

import numpy as np

from benchmarks.gallery_of_domains import in_rows, titled
from benchmarks.small_things import found, squares
from esam_rt import EntityMap


def test_a_square_is_found_if_an_entity_overlaps_it_by_half() -> None:
    _, truth = squares(200, 20, 60)
    assert truth.max() == 9
    rng = np.random.default_rng(0)
    shifted = np.zeros_like(truth)
    for number in range(1, 9):
        y, x = (int(axis.min()) for axis in np.nonzero(truth == number))
        dy, dx = rng.integers(0, 9, 2)
        shifted[y + dy : y + dy + 20, x + dx : x + dx + 20] = number
    result = EntityMap.from_labels(shifted, rng.random(8), np.zeros(8))
    iou = [
        ((result.labels == i) & (truth == k)).sum() / ((result.labels == i) | (truth == k)).sum()
        for k in range(1, 10)
        for i in range(1, 9)
    ]
    expected = (np.reshape(iou, (9, 8)) >= 0.5).any(axis=1).sum()
    assert 0 < expected < 8
    assert found(result, truth) == expected
    assert found(EntityMap.from_labels(truth * 0, np.zeros(0), np.zeros(0)), truth) == 0


def test_a_row_of_a_sheet_is_as_high_as_its_highest_picture() -> None:
    cells = [titled(np.zeros((h, w, 3), np.uint8), "x", 100) for h, w in ((50, 100), (100, 50), (10, 100), (20, 100))]
    sheet = in_rows(cells, 3)
    assert sheet.shape == (len(cells[1]) + len(cells[3]), 3 * cells[0].shape[1], 3)
    assert (sheet[: len(cells[0]), : cells[0].shape[1]] == cells[0]).all()
    assert (sheet[-1] == 255).all()
