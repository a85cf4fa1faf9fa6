"""Options that commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esam_rt.errors import SettingsError, did_you_mean

if TYPE_CHECKING:
    from esam_rt.settings import Settings

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A name that `esam-rt models` lists.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights: .pth, .safetensors or a Hugging Face folder. Default: those that ship or are published."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
# Of the commands that segment photos.
Model = Annotated[str, typer.Option(help="A name that `esam-rt models` lists.")]
Method = Annotated[str, typer.Option(help="e-sam, or a baseline: amg, sam-o, superpixels.")]
Preset = Annotated[str, typer.Option(help="paper (grids 32/64) or fast (16/32).")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings, on top of the preset.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="One setting, on top of both; may be repeated."),
]
Backend = Annotated[str, typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx.")]
Device = Annotated[
    str | None, typer.Option(help="cpu or cuda; of onnxruntime also tensorrt. Default: what the backend runs on.")
]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16 or bf16. Default: fp32, for TensorRT fp16.")]
Engines = Annotated[Path | None, typer.Option(help="Folder of engines from build-engine --out.")]
NoBuild = Annotated[bool, typer.Option("--no-build", help="Fail rather than build an engine.")]
# Each costs memory, and the libraries start as many as they are told to: 100,000 end the process.
MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))
Threads = Annotated[int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads; default: one a core.")]
Memory = Annotated[
    int | None, typer.Option(min=1, metavar="MB", help="Memory of the engines at most; smaller batches of prompts.")
]
CudaGraphs = Annotated[
    bool, typer.Option("--cuda-graphs", help="On device cuda: launch full batches of prompts as CUDA graphs.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many photos.")]
MaxMegapixels = Annotated[float, typer.Option(min=0.001, help="Refuse larger photos.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an earlier run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run's results in --out.")]


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """SettingsError unless `value` is one of the choices."""
    if value not in list(choices):
        raise SettingsError(f"{option} {value}: unknown.{did_you_mean(value, choices)}")


def path(name: str, value: str) -> Path:
    """A path given as an argument; SettingsError for none, as a variable that is not set leaves it: it would be the
    current folder."""
    if not value:
        raise SettingsError(f"{name} is empty; expected a path. Is a variable not set?")
    return Path(value)


def pixels(megapixels: float) -> int:
    """--max-megapixels in pixels; `inf` = no cap."""
    return int(min(megapixels * 1e6, sys.maxsize))


def settings_of(preset: str, config: Path | None, changes: list[str] | None) -> Settings:
    """Preset, then file, then --set."""
    from esam_rt.settings import Settings

    settings = Settings.preset(preset)
    if config is not None:
        settings = Settings.from_toml(config, settings)
    overrides: dict[str, object] = {}
    for change in changes or []:
        name, equals, value = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change}: expected NAME=VALUE, such as --set emr.delta=0.1.")
        overrides[name.strip()] = value.strip()
    return settings.with_overrides(overrides)
