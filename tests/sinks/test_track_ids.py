"""Identities in results: COCO, supervision and the colors of overlays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esam_rt.entity_map import EntityMap
from esam_rt.sinks.palette import entity_colors


def entities(*track_id: int) -> EntityMap:
    labels = np.repeat(np.arange(1, len(track_id) + 1, dtype=np.uint16), 4).reshape(1, -1).repeat(5, 0)
    score = np.linspace(0.9, 0.5, len(track_id))
    result = EntityMap.from_labels(labels, score, np.zeros(len(track_id), np.uint8))
    return replace(result, track_id=np.array(track_id))


def test_coco_has_them_only_if_there_are_some() -> None:
    tracked = entities(7, 2**40)
    assert [annotation["track_id"] for annotation in tracked.to_coco()] == [7, 2**40]
    assert all("track_id" not in annotation for annotation in replace(tracked, track_id=None).to_coco())


def test_an_identity_keeps_its_color_whatever_its_rank() -> None:
    first, second = entity_colors(entities(7, 9, 1)), entity_colors(entities(1, 7, 9))
    np.testing.assert_array_equal(first[[1, 2, 3]], second[[2, 3, 1]])
    assert first[0].tolist() == [0, 0, 0]
    assert len({tuple(color) for color in first.tolist()}) == 4


def test_supervision_gets_them() -> None:
    pytest.importorskip("supervision", minversion="0.28")
    found = entities(7, 9).to_supervision().tracker_id
    assert found is not None
    assert found.tolist() == [7, 9]
