"""The scripts that draw the figures still work."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import skimage.data

from esam_rt import Settings
from tests.docs.conftest import ROOT

FOLDER = ROOT / "docs" / "figures"


def test_it_draws_all_figures(user_folder: Path) -> None:
    script = runpy.run_path(str(FOLDER / "draw_method.py"), run_name="draw_method")
    photo = np.ascontiguousarray(skimage.data.astronaut()[::4, ::4])
    settings = Settings().with_overrides({"prompts.coarse_side": 12, "prompts.fine_side": 16})
    figures = script["draw"](photo, (0.1, 0.5), settings)
    assert {f"method_{name}.jpg" for name in figures} == {path.name for path in FOLDER.glob("*.jpg")}
    for image in figures.values():
        assert image.dtype == np.uint8
        assert image.shape[1:] == (2 * script["WIDTH_PX"] + script["GAP_PX"], 3)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100  # not one flat color


def test_the_demo_shows_photos_side_by_side(user_folder: Path) -> None:
    script = runpy.run_path(str(FOLDER / "draw_demo.py"), run_name="draw_demo")
    photo = np.ascontiguousarray(skimage.data.astronaut()[::4, ::4])
    picture = script["draw"]([photo, photo])
    assert picture.shape == (script["HEIGHT_PX"], 2 * script["HEIGHT_PX"], 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_the_curve_of_the_training_has_all_rows_of_the_card() -> None:
    script = runpy.run_path(str(FOLDER / "draw_training.py"), run_name="draw_training")
    rows = script["rows_of"](script["CARD"].read_text("utf-8"))
    _, _, table = script["CARD"].read_text("utf-8").partition("| Weights | Core-hours |")
    assert len(rows) == table.partition("\n\n")[0].count("\n") - 1
    assert [float(row["Core-hours"]) for row in rows] == sorted(float(row["Core-hours"]) for row in rows)
    assert all(float(row[name]) > 0 for row in rows for name in script["PANELS"])
    assert sum(", ships" in row["Weights"] for row in rows) == 1
    with pytest.raises(ValueError, match="has no table"):
        script["rows_of"]("| Weights | Terms |\n")
