"""Adapter to supervision, with the package itself."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
import supervision
from numpy.typing import NDArray

from esam_rt import EntityMap
from esam_rt.errors import MissingDependencyError


def two_entities() -> EntityMap:
    labels = np.zeros((4, 6), np.uint16)
    labels[:2, :3], labels[3, 4:] = 1, 2
    labels[3, 0] = 1  # a second piece
    return EntityMap.from_labels(labels, np.array([0.5, 0.75]), np.zeros(2, int))


def cells(height: int, width: int, side: int) -> EntityMap:
    y, x = np.mgrid[:height, :width] // side
    labels: NDArray[np.int64] = y * (x.max() + 1) + x + 1
    count = int(labels.max())
    return EntityMap.from_labels(labels, np.linspace(1, 0.5, count), np.zeros(count, int))


@pytest.mark.parametrize("compact", [True, False])
def test_detections_hold_boxes_masks_and_scores(compact: bool) -> None:
    entities = two_entities()
    found = entities.to_supervision(compact)
    assert found.xyxy.tolist() == [[4, 3, 6, 4], [0, 0, 3, 4]]
    assert found.xyxy.dtype == np.float32
    assert found.confidence is not None and found.confidence.tolist() == [0.75, 0.5]
    assert found.class_id is not None and found.class_id.tolist() == [0, 0]
    assert np.array_equal(np.asarray(found.mask), np.stack(list(entities.masks())))
    assert np.array_equal(np.asarray(found[1:].mask), entities.mask(1)[None])  # as filters of supervision do
    empty = EntityMap.from_labels(np.zeros((4, 6), int), np.zeros(0), np.zeros(0, int)).to_supervision(compact)
    assert (empty.xyxy.shape, np.asarray(empty.mask).shape) == ((0, 4), (0, 4, 6))


def test_masks_are_compact_and_supervision_draws_them() -> None:
    entities = cells(60, 100, 7)
    found = entities.to_supervision()
    assert np.array_equal(np.asarray(found.mask), np.stack(list(entities.masks())))
    drawn = supervision.MaskAnnotator().annotate(np.zeros((60, 100, 3), np.uint8), found)
    assert drawn.any()
    large = cells(1080, 1920, 108)
    tracemalloc.start()
    kept = large.to_supervision()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) == len(large) == 180
    assert peak_bytes < 5e6


def test_without_the_package_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'esam-rt\[supervision\]'"):
        two_entities().to_supervision()
