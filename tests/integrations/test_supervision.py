"""Adapter to supervision, with a stand-in for the package."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from esam_rt import EntityMap
from esam_rt.errors import MissingDependencyError


def test_detections_hold_boxes_masks_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("supervision")
    package.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", package)
    labels = np.zeros((4, 6), np.uint16)
    labels[:2, :3], labels[3, 4:] = 1, 2
    found = EntityMap.from_labels(labels, np.array([0.5, 0.75]), np.zeros(2, int)).to_supervision()
    assert found.xyxy.tolist() == [[4, 3, 6, 4], [0, 0, 3, 2]]
    assert found.xyxy.dtype == np.float32
    assert found.confidence.tolist() == [0.75, 0.5]
    assert found.class_id.tolist() == [0, 0]
    assert found.mask.shape == (2, 4, 6) and found.mask.sum((1, 2)).tolist() == [2, 6]
    empty = EntityMap.from_labels(labels * 0, np.zeros(0), np.zeros(0, int)).to_supervision()
    assert (empty.xyxy.shape, empty.mask.shape) == ((0, 4), (0, 4, 6))


def test_without_the_package_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError, match="pip install supervision"):
        EntityMap.from_labels(np.zeros((2, 2), np.uint16), np.zeros(0), np.zeros(0, int)).to_supervision()
