"""Settings: ranges, presets, overrides and files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from esam_rt import Settings
from esam_rt.errors import SettingsError
from esam_rt.sam.models import ModelSpec
from esam_rt.settings import Emr, Prompts

ROW: dict[str, Any] = {
    "name": "m", "description": "", "license": "", "input_px": 1024,
    "score_min": 0.88, "stability_min": 0.95, "stability_offset": 1.0, "decode_batch": 8,
}  # fmt: skip


def test_a_model_decides_only_what_is_left_open() -> None:
    own = ModelSpec(**ROW).default_thresholds()
    s = Settings().with_overrides({"filters.score_min": 0.5, "amg.nms": 0}).with_model_defaults(own)
    assert (s.filters.score_min, s.filters.stability_min, s.amg.nms, s.mmg.theta_o) == (0.5, 0.95, 0, 0.8)
    assert s.with_model_defaults(ModelSpec(**{**ROW, "score_min": 0.1}).default_thresholds()) == s


def test_defaults_are_the_papers() -> None:
    s = Settings()
    assert (s.prompts.coarse_side, s.prompts.fine_side) == (32, 64)
    assert (s.with_model_defaults(ModelSpec(**ROW).default_thresholds()).mmg.theta_o, s.mmg.gamma_o) == (0.8, 0.6)
    assert (s.emr.delta, s.emr.tau, s.usr.rho) == (0.05, 0.1, 0.1)
    assert s == Settings.preset("paper")


def test_fast_only_changes_the_grids() -> None:
    fast = Settings.preset("fast")
    assert (fast.prompts.coarse_side, fast.prompts.fine_side) == (16, 32)
    assert dataclasses.replace(fast, prompts=Prompts()) == Settings()


def test_every_number_names_its_source_and_stands_in_its_range() -> None:
    for group in dataclasses.fields(Settings()):
        for f in dataclasses.fields(getattr(Settings(), group.name)):
            assert f.metadata["source"], f"{group.name}.{f.name}"
            if not isinstance(f.default, bool | str):
                assert f.metadata["low"] <= f.default <= f.metadata["high"], f"{group.name}.{f.name}"


def test_overrides_from_the_command_line_get_the_settings_type() -> None:
    s = Settings().with_overrides({"emr.delta": "0.2", "usr.enabled": "false", "emr.top_k": "7", "mmg.w_max": 0.5})
    assert (s.emr.delta, s.usr.enabled, s.emr.top_k, s.mmg.w_max) == (0.2, False, 7, 0.5)
    assert isinstance(s.emr.top_k, int)
    assert s.mmg.theta_o == Settings().mmg.theta_o


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("emr.detla", "1", "Did you mean emr.delta"),
        ("delta", "1", "Unknown setting 'delta'"),
        ("emr", "1", "Unknown setting 'emr'"),
        ("emr.delta", "1.5", r"emr.delta = 1.5: expected a number from 0 to 1"),
        ("emr.delta", "nan", "expected a number"),
        ("emr.delta", "much", "expected a number"),
        ("emr.delta", True, "expected a number"),
        ("emr.top_k", "2.5", "expected a whole number"),
        ("emr.top_k", "0", "from 1 to 100"),
        ("usr.enabled", "maybe", "expected true or false"),
        ("usr.enabled", 1, "expected true or false"),
    ],
)
def test_bad_overrides(key: str, value: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings().with_overrides({key: value})


def test_construction_checks_too() -> None:
    with pytest.raises(SettingsError, match=r"emr\.tau = 7"):
        Emr(tau=7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().emr.tau = 0.2  # type: ignore[misc]


def test_toml_file_on_top_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[emr]\ndelta = 0.1\n[usr]\nenabled = false\n")
    s = Settings.from_toml(path, Settings.preset("fast"))
    assert (s.emr.delta, s.usr.enabled, s.prompts.fine_side) == (0.1, False, 32)


def test_a_written_file_reads_back_equal(tmp_path: Path) -> None:
    lines = []
    for group, values in Settings.preset("fast").to_dict().items():
        lines.append(f"[{group}]")
        lines += [f"{k} = {json.dumps(v)}" for k, v in values.items()]
    path = tmp_path / "all.toml"
    path.write_text("\n".join(lines))
    assert Settings.from_toml(path) == Settings.preset("fast")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("emr = 3", "emr stands outside a table"),
        ("[emr\n", "not a TOML file"),
        ("[emr]\ndelta = 'x'", "expected a number"),
        ("[emrr]\ndelta = 1", "Unknown setting 'emrr.delta'"),
    ],
)
def test_bad_files_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as e:
        Settings.from_toml(path)
    assert "bad.toml" in str(e.value)


def test_missing_file_and_preset(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.from_toml(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="Did you mean fast"):
        Settings.preset("fsat")
