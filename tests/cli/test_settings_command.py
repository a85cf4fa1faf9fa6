"""The command `settings`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from esam_rt import Settings
from esam_rt.cli import app, output
from esam_rt.settings import all_settings

ROOT = Path(__file__).parents[2]


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app.app, ["settings", *map(str, arguments)])


def test_every_setting_is_printed_with_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "stdout", console := Console(width=100, record=True, no_color=True))
    assert call("--preset", "fast").exit_code == 0
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    rows = [line.split()[0] for line in text.splitlines() if line and not line.startswith(" ")]
    names = [name.partition(".")[2] for name in all_settings()]
    assert [row for row in rows if row in names] == names
    words = " ".join(text.split())
    assert "coarse_side 16 1 to 256 paper Table 4 points per side" in words
    assert "score_min model's own 0 to 1 SAM 0.88" in words
    assert "enabled true true, false" in words


def test_json_holds_the_values_that_were_asked_for(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[emr]\ntau = 0.3\n")
    result = call("--json", "--config", tmp_path / "my.toml", "--set", "usr.rho=0.2")
    found = json.loads(result.stdout)
    assert list(found) == list(all_settings())
    assert (found["emr.tau"]["value"], found["emr.tau"]["default"], found["usr.rho"]["value"]) == (0.3, 0.1, 0.2)
    assert (found["filters.score_min"]["value"], found["filters.score_min"]["range"]) == (None, "0 to 1")


def test_the_schema_is_printed() -> None:
    assert json.loads(call("--schema").stdout) == Settings.json_schema()


def test_a_bad_setting_is_2() -> None:
    result = call("--set", "emr.detla=1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Did you mean emr.delta" in result.stderr


def test_help_does_not_wait_for_pydantic() -> None:
    code = "import sys; from esam_rt.cli import app; assert 'esam_rt.settings' not in sys.modules; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "pydantic" not in done.stdout.split()
