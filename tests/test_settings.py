"""Settings: ranges, presets, overrides and files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from esam_rt import Settings
from esam_rt.errors import SettingsError
from esam_rt.sam.models import ModelSpec
from esam_rt.settings import Emr, Filters, Prompts, Superpixels, all_settings, decided

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


def test_fast_only_changes_the_prompts() -> None:
    fast = Settings.preset("fast")
    assert (fast.prompts.coarse_side, fast.prompts.fine_side, fast.prompts.strategy) == (16, 32, "adaptive")
    assert (Settings().prompts.strategy, Settings().is_adaptive, fast.is_adaptive) == ("grid", False, True)
    assert Settings(**{**dict(fast), "prompts": Prompts()}) == Settings()


def test_every_number_names_its_source_and_stands_in_its_range() -> None:
    for name, info in all_settings().items():
        assert info.source and info.meaning, name
        if info.kind is str:
            assert info.default in info.choices, name
        elif info.kind is not bool:
            assert info.low is not None and info.high is not None, name
            assert info.default is None or info.low <= info.default <= info.high, name


def test_what_is_described_is_every_value() -> None:
    values = {f"{g}.{n}": v for g, group in Settings().to_dict().items() for n, v in group.items()}
    assert values == {name: info.default for name, info in all_settings().items()}


def test_the_json_schema_holds_range_source_and_meaning() -> None:
    schema = Settings.json_schema()
    delta = schema["$defs"]["Emr"]["properties"]["delta"]
    assert (delta["minimum"], delta["maximum"], delta["default"]) == (0, 1, 0.05)
    assert delta["source"] == "paper Table 4" and "δ" in delta["description"]
    assert schema["$defs"]["Emr"]["properties"]["gallery"]["enum"] == ["lazy", "exact"]
    own = schema["$defs"]["Filters"]["properties"]["score_min"]
    assert [kind["type"] for kind in own["anyOf"]] == ["number", "null"]
    json.dumps(schema)


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
        ("amg.min_mask_region_area", "100", "SAM's name stands for cleanup.min_piece and cleanup.fill_holes"),
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tau": 7}, r"emr\.tau = 7: expected a number from 0 to 1\."),
        ({"tau": "0.1"}, r"emr\.tau = '0\.1': expected a number\."),
        ({"gallery": "none"}, r"emr\.gallery = 'none': expected one of lazy, exact\."),
        ({"votes": float("inf")}, r"emr\.votes = inf: expected a number\."),
        ({"detla": 1}, r"Unknown setting 'emr\.detla'\. Did you mean emr\.delta"),
    ],
)
def test_construction_checks_too(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Emr(**values)
    with pytest.raises(SettingsError, match=message):
        Emr().with_changes(**values)


def test_groups_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"emr = 3: expected an object of class Emr\."):
        Settings(emr=3)
    with pytest.raises(SettingsError, match=r"Unknown group of settings 'emmr'\. Did you mean emr"):
        Settings(emmr=Emr())


def test_settings_do_not_change() -> None:
    for thing, name, value in ((Settings().emr, "tau", 0.2), (Settings(), "emr", Emr())):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(thing, name, value)


def test_settings_are_keys_and_travel_to_other_processes() -> None:
    fast = Settings.preset("fast")
    assert pickle.loads(pickle.dumps(fast)) == fast
    assert len({fast, Settings(), Settings.preset("paper")}) == 2
    assert {Superpixels(): 1}[Settings().superpixels] == 1


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert repr(Emr(top_k=7.0).top_k) == "7"
    assert repr(Emr(delta=1).delta) == "1.0"


@pytest.mark.parametrize("value", ["none", "None", "null", -1, -1.0, "-1", None])
def test_none_is_the_models_own(value: object) -> None:
    """Files of earlier versions hold -1."""
    changed = Settings().with_overrides({"filters.score_min": 0.5, "amg.nms": 0.3})
    assert changed.with_overrides({"filters.score_min": value, "amg.nms": value}) == Settings()


def test_other_negative_numbers_and_numbers_of_no_model_are_refused() -> None:
    message = r"filters\.score_min = -0\.5: expected a number from 0 to 1, or none for the model's own\."
    with pytest.raises(SettingsError, match=message):
        Filters(score_min=-0.5)
    for value in (-1, "none", None):
        with pytest.raises(SettingsError, match=r"filters\.min_area = .*: expected a number"):
            Settings().with_overrides({"filters.min_area": value})


def test_an_open_number_is_not_used() -> None:
    assert decided(0.8, "mmg.theta_o") == 0.8
    with pytest.raises(SettingsError, match=r"mmg\.theta_o is None.*Call with_model_defaults\(\) first"):
        decided(None, "mmg.theta_o")


def test_toml_file_on_top_of_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[emr]\ndelta = 0.1\n[usr]\nenabled = false\n")
    s = Settings.from_toml(path, Settings.preset("fast"))
    assert (s.emr.delta, s.usr.enabled, s.prompts.fine_side) == (0.1, False, 32)


def test_a_written_file_reads_back_equal(tmp_path: Path) -> None:
    lines = []
    for group, values in Settings.preset("fast").to_dict().items():
        lines.append(f"[{group}]")
        lines += [f"{k} = {json.dumps('none' if v is None else v)}" for k, v in values.items()]
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
