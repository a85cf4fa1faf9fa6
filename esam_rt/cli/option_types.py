"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from esam_rt.cli.streams import silence_libraries
from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.storage.buckets import is_bucket

if TYPE_CHECKING:
    from esam_rt.settings import Settings
    from esam_rt.sources.raw_frames import RawFormat


def _silence(quiet: bool) -> bool:
    """Print no warnings, neither ours nor those of libraries, for ``--quiet``."""
    if quiet:
        silence_libraries()
        for handler in logging.getLogger("esam_rt").handlers:
            handler.setLevel(logging.ERROR)
    return quiet


ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name of a model. `esam-rt models` lists them.", show_default=False)
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights: a .pth or .safetensors file, or a Hugging Face folder. Default: the model's own weights."
    ),
]
Preset = Annotated[str, typer.Option(help="paper (grids 32/64) or fast (grids 16/32).")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings. It overrides the preset.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one setting. May be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.", callback=_silence)]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N photos.", metavar="N")]
MaxMegapixels = Annotated[float, typer.Option(min=0.001, help="Refuse larger photos.")]
SampleRange = Annotated[
    str,
    typer.Option(
        "--range",
        metavar="auto|full|LOW,HIGH",
        help="Black and white of samples with more than 8 bits. auto: by percentiles of each photo.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an earlier run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove the results of an earlier run in --out first.")]


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Check that a value is one of some names.

    Args:
        option: Name of the option, for the message.
        value: What the user gave.
        choices: All valid names.

    Raises:
        SettingsError: ``value`` is another name.
    """
    if value not in list(choices):
        raise SettingsError(f"{option} {value}: unknown.{did_you_mean(value, choices)}")


def path(name: str, value: str) -> Path:
    """Read a path.

    Args:
        name: Name of the option or argument, for the message.
        value: What the user gave.

    Returns:
        The path.

    Raises:
        SettingsError: ``value`` is empty, usually an unset shell variable. It would mean the current folder. Or it is a
            bucket.
    """
    if not value:
        raise SettingsError(f"{name} is empty, expected a path. Is a shell variable not set?")
    if is_bucket(value):
        raise SettingsError(
            f"{name}: found a bucket, expected a path of this machine. Only SOURCE and --out of run are buckets."
        )
    return Path(value)


def source(value: str) -> Path | str:
    """Read the path of photos, a video or a bag, the URL of a bucket or a stream, or ``-`` for standard input.

    Args:
        value: What the user gave.

    Returns:
        The path, or the URL as it is.

    Raises:
        SettingsError: ``value`` is empty.
        InputError: ``value`` is a URL of something else.
    """
    from esam_rt.sources.source_address import given_source

    if not is_bucket(value):
        path("SOURCE", value)
    return given_source(value)


def pixels(megapixels: float) -> int:
    """Convert ``--max-megapixels`` to pixels.

    Args:
        megapixels: Millions of pixels. Infinity means no limit.

    Returns:
        The number of pixels.
    """
    return int(min(megapixels * 1e6, sys.maxsize))


def seconds(option: str, value: str) -> float:
    """Read a time with its unit.

    Args:
        option: Name of the option, for the message.
        value: For example ``100ms`` or ``1.5 s``.

    Returns:
        Seconds.

    Raises:
        SettingsError: ``value`` is no time above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(ms|s)\s*", value)
    number = float(match[1]) if match else 0.0
    if match is None or not 0 < number < math.inf:
        raise SettingsError(f"{option} {value}: expected a time above 0 with its unit, such as 100ms or 2s.")
    return number / 1000 if match[2] == "ms" else number


def names(words: str) -> tuple[str, ...]:
    """Split names at commas.

    Args:
        words: For example ``labels, coco``.

    Returns:
        The names without spaces; empty ones are dropped.
    """
    return tuple(name.strip() for name in words.split(",") if name.strip())


def raw_format(pixel_format: str | None, size: str | None, fps: float | None) -> RawFormat | None:
    """Read ``--raw`` and ``--size``.

    Args:
        pixel_format: Name of FFmpeg.
        size: For example ``640x480``.
        fps: Frames a second.

    Returns:
        The format, or None if neither is given.

    Raises:
        SettingsError: One is missing or wrong.
    """
    from esam_rt.sources.raw_frames import RawFormat

    if pixel_format is None and size is None:
        return None
    match = re.fullmatch(r"([0-9]+)[xX]([0-9]+)", size or "")
    if pixel_format is None or match is None:
        raise SettingsError(f"--size {size}: expected --raw and --size together, such as --raw rgb24 --size 640x480.")
    return RawFormat(pixel_format, int(match[1]), int(match[2]), fps)


def band_numbers(words: str) -> tuple[int, ...]:
    """Read ``--bands``.

    Args:
        words: For example ``4,3,2``.

    Raises:
        SettingsError: ``words`` are no numbers.
    """
    if not all(word.isascii() and word.isdigit() for word in names(words)):
        raise SettingsError(f"--bands {words}: expected numbers with commas between them, such as 4,3,2.")
    return tuple(int(word) for word in names(words))


def settings_of(preset: str, config: Path | None, changes: list[str] | None) -> Settings:
    """Read the settings: first the preset, then the file, then ``--set``.

    Args:
        preset: Name of a preset.
        config: A TOML file.
        changes: Texts of the form ``NAME=VALUE``.

    Returns:
        The settings.

    Raises:
        SettingsError: A name or a value is wrong, or the file cannot be read.
    """
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
