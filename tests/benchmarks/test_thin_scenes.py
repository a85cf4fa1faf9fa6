"""Scenes with known truth: lines of one to three pixels stay."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from benchmarks.boundary_refinement import VARIANTS, drawn
from benchmarks.lib.thin_scenes import thin_scene
from esam_rt import Settings


def recall_by_width(changes: dict[str, object]) -> dict[int, float]:
    """Mean share of the pixels of lines that are found, by the width of the lines, over four scenes."""
    found: dict[int, list[float]] = defaultdict(list)
    for scene in map(thin_scene, range(4)):
        labels = drawn(scene, Settings.preset("fast").with_overrides(changes))
        for label, width in scene.widths.items():
            found[width].append(float((labels[scene.truth == label] == label).mean()))
    return {width: float(np.mean(shares)) for width, shares in sorted(found.items())}


def test_refined_and_cleaned_maps_keep_thin_lines() -> None:
    before, after = recall_by_width(VARIANTS["logits"]), recall_by_width(VARIANTS["refined and cleaned"])
    assert list(before) == list(after) == [1, 2, 3]
    assert all(after[width] >= before[width] for width in before)
    assert min(after.values()) > 0.9
