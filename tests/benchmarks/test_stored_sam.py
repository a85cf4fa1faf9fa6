"""Masks that are kept in files, and prices of calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.lib.priced_sam import PricedSam, Prices
from esam_rt import EntitySegmenter, Settings
from tests.support.scene import Scene, photo_of, quadrants

SETTINGS = Settings().with_overrides({"prompts.coarse_side": 8, "prompts.fine_side": 16})


def test_a_second_run_reads_the_masks_and_costs_the_same(tmp_path: Path) -> None:
    maps = quadrants()
    scene, photo = Scene.of_label_maps(maps), photo_of(maps[0])
    results, charged = [], []
    for run in range(2):
        sam = scene.sam()
        if run:
            sam.engines.decoder.infer = pytest.fail  # type: ignore[method-assign]
        priced = PricedSam(sam, Prices(100.0, 10.0, 1.0), tmp_path / "masks")
        priced.open("photo")
        start = priced.clock()
        with EntitySegmenter(priced, settings=SETTINGS) as segment:
            results.append(segment(photo))
        charged.append(priced.clock() - start)
        priced.save()
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    prompts = results[0].prompts_decoded
    for seconds in charged:  # the encoder, the prompts and four drawings, beside the work of the process
        assert 0 <= seconds - (100 + 10 * prompts + 4) < 100


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    maps = quadrants()
    priced = PricedSam(Scene.of_label_maps(maps).sam(), Prices(), None)
    priced.open("photo")
    with EntitySegmenter(priced, settings=SETTINGS) as segment:
        assert len(segment(photo_of(maps[0]))) == 4
    priced.save()
    assert not list(tmp_path.iterdir())
