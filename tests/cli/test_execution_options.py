"""Options that are declared once: the tables cover `ExecutionConfig`, and commands get what they ask for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from esam_rt.cli import execution_options, output
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.segmenter import SegmenterConfig
from esam_rt.settings import Settings

OPTIONS = ("--device", "cuda", "--gpu", "2", "--no-build", "--memory", "700", "--precision", "fp16")
EXPECTED = ExecutionConfig(device="cuda", gpu=2, build=False, memory_mb=700, precision="fp16")


def invoke(command: Any, *arguments: str) -> Any:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(command)
    return CliRunner().invoke(app, arguments)


def test_every_field_has_an_option_but_the_stream() -> None:
    assert set(execution_options.EXECUTION) == {field.name for field in fields(ExecutionConfig)} - {"stream"}


@pytest.mark.parametrize("arguments", [(), OPTIONS])
def test_a_command_keeps_its_own_parameters(arguments: tuple[str, ...]) -> None:
    taken: list[Any] = []

    @execution_options.takes_segmenter
    def command(name: str, segmenter: SegmenterConfig, count: int = 3) -> None:
        """Do it."""
        taken.append((name, segmenter.execution, count))

    result = invoke(command, "photo", *arguments)
    assert (result.exit_code, taken) == (0, [("photo", EXPECTED if arguments else ExecutionConfig(), 3)])
    shown = invoke(command, "--help").stdout
    assert "Do it." in shown
    assert "--build / --no-build" in shown


def test_a_command_takes_a_segmenter(tmp_path: Path) -> None:
    taken: list[Any] = []

    @execution_options.takes_segmenter
    def command(segmenter: SegmenterConfig) -> None:
        taken.append(segmenter)

    assert invoke(command).exit_code == 0
    assert invoke(command, "--method", "amg", "--set", "emr.delta=0.2", "--preset", "fast", *OPTIONS).exit_code == 0
    settings = Settings.preset("fast").with_overrides({"emr.delta": "0.2"})
    assert taken == [SegmenterConfig(), SegmenterConfig(method="amg", settings=settings, execution=EXPECTED)]


def test_what_does_not_go_together_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @output.exit_codes()
    @execution_options.takes_segmenter
    def command(segmenter: SegmenterConfig) -> None:
        raise AssertionError

    result = invoke(command, "--device", "cpu", "--cuda-graphs")
    assert (result.exit_code, result.stderr) == (2, "error: CUDA graphs are for device cuda, found device cpu.\n")
