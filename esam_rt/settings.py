"""Settings: every number of the method, with its range and its source.

"paper" marks numbers of E-SAM (its Tables 2 to 4 and section 3), "ours" those the paper leaves open, "SAM" those of
SAM's automatic mask generation. A negative number stands for the model's own (`sam/models.py`), since models differ
in how sure and how steady they are. A TOML file has one table a group; `--set emr.delta=0.1` changes a single number.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from esam_rt.errors import SettingsError, did_you_mean

Value = bool | int | float | str


def _setting(default: Value, source: str, low: float = 0.0, high: float = 1.0, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"source": source, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class _Group:
    """A group of settings: checked on construction."""

    def __post_init__(self) -> None:
        for f in fields(self):
            where = f"{type(self).__name__.lower()}.{f.name}"
            object.__setattr__(self, f.name, _checked(where, getattr(self, f.name), f))


def _checked(where: str, value: object, f: dataclasses.Field[Any]) -> Value:
    """`value` as the field's type and within its range."""
    kind: type = type(f.default)
    found = f"{where} = {value!r}"
    if kind is bool:
        if not isinstance(value, bool):
            raise SettingsError(f"{found}: expected true or false.")
        return value
    if kind is str:
        choices: tuple[str, ...] = f.metadata["choices"]
        if value not in choices:
            raise SettingsError(f"{found}: expected one of {', '.join(choices)}.")
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingsError(f"{found}: expected a number.")
    if kind is int and value != int(value):
        raise SettingsError(f"{found}: expected a whole number.")
    low, high = f.metadata["low"], f.metadata["high"]
    if not low <= value <= high:
        raise SettingsError(f"{found}: expected a number from {low:g} to {high:g}.")
    return int(value) if kind is int else float(value)


@dataclass(frozen=True)
class Prompts(_Group):
    """Sides of the two square grids of point prompts (E-SAM §3.2, Table 4)."""

    coarse_side: int = _setting(32, "paper Table 4", 1, 256)
    fine_side: int = _setting(64, "paper Table 4", 1, 256)


@dataclass(frozen=True)
class Filters(_Group):
    """What a high-confidence mask is: SAM's own filters."""

    score_min: float = _setting(-1.0, "SAM 0.88; the model's own", -1.0)
    stability_min: float = _setting(-1.0, "SAM 0.95; the model's own", -1.0)
    stability_offset: float = _setting(-1.0, "SAM 1.0; the model's own", -1.0, 20.0)
    min_area: int = _setting(16, "ours; cells of the working grid", 1, 65536)


@dataclass(frozen=True)
class Superpixels(_Group):
    """Felzenszwalb's segmentation (E-SAM §3.2), whose sizes hold at a longest side of 512 px and grow with the area, or
    SLIC (§4.4)."""

    method: str = _setting("felzenszwalb", "paper §3.2", choices=("felzenszwalb", "slic"))
    long_side_px: int = _setting(512, "ours", 16, 8192)
    scale: float = _setting(100.0, "ours", 0.0, 1e6)
    sigma: float = _setting(0.5, "ours", 0.0, 100.0)
    min_size: int = _setting(50, "ours; pixels at 512", 1, 1_000_000)
    count: int = _setting(400, "ours; SLIC, of a square photo", 1, 60_000)
    compactness: float = _setting(10.0, "ours; SLIC, how square", 1e-3, 1e4)


@dataclass(frozen=True)
class Mmg(_Group):
    """Multi-level mask generation (E-SAM §3.2)."""

    enabled: bool = _setting(True, "paper Table 3")
    theta_o: float = _setting(-1.0, "paper Table 4: 0.8; the model's own NMS threshold of the object level", -1.0)
    gamma_o: float = _setting(0.6, "paper eq. 2, Table 4; least best IoU with the best level")
    n_t: float = _setting(0.5, "ours; eq. 4, base threshold of adaptive NMS")
    w_max: float = _setting(0.9, "ours; eq. 3, weight of the smallest superpixel")


@dataclass(frozen=True)
class Emr(_Group):
    """Entity-level mask refinement (E-SAM §3.3)."""

    enabled: bool = _setting(True, "paper Table 3")
    gallery: str = _setting("lazy", "ours; decode the fine grid as needed, or all of it", choices=("lazy", "exact"))
    votes: int = _setting(64, "ours; most prompts that a lazy gallery decodes of an overlap or of a pair", 1, 65536)
    delta: float = _setting(0.05, "paper Table 4; overlaps below this share of the larger mask are cut from it")
    tau: float = _setting(0.1, "paper eq. 6, Table 4; tolerance for the object mask as guidance")
    vote_iou: float = _setting(0.9, "ours; votes for masks that overlap so much count as one")
    cover: float = _setting(0.8, "ours; share of a mask inside the guidance that counts as covered")
    top_k: int = _setting(5, "ours; eq. 7", 1, 100)
    similarity_min: float = _setting(1.0, "ours; least S_M of a candidate pair", 0.0, 100.0)
    encompass: float = _setting(0.85, "ours; eq. 8, share of each mask inside the gallery mask")
    fill: float = _setting(0.7, "ours; eq. 8, least share of the gallery mask that the pair fills")


@dataclass(frozen=True)
class Usr(_Group):
    """Under-segmentation refinement (E-SAM §3.4)."""

    enabled: bool = _setting(True, "paper Table 3")
    outside: float = _setting(0.5, "ours; uncovered share above which a superpixel remains")
    inside: float = _setting(0.95, "ours; eq. 9, share of a region inside a part mask")
    rho: float = _setting(0.1, "paper eq. 10, Table 4; IoU above which a mask joins an entity")
    gain_min: float = _setting(0.001, "ours; least newly covered share of the image")


@dataclass(frozen=True)
class Amg(_Group):
    """The baselines: SAM's automatic mask generation, and its object level alone (E-SAM Table 2)."""

    nms: float = _setting(-1.0, "SAM: 0.7; the model's own NMS threshold", -1.0)


@dataclass(frozen=True)
class Settings:
    """All settings. `Settings()` is the preset `paper`."""

    prompts: Prompts = field(default_factory=Prompts)
    filters: Filters = field(default_factory=Filters)
    superpixels: Superpixels = field(default_factory=Superpixels)
    mmg: Mmg = field(default_factory=Mmg)
    emr: Emr = field(default_factory=Emr)
    usr: Usr = field(default_factory=Usr)
    amg: Amg = field(default_factory=Amg)

    @staticmethod
    def preset(name: str) -> Settings:
        """`paper` (grids 32/64) or `fast` (16/32)."""
        if name not in PRESETS:
            raise SettingsError(f"Unknown preset {name!r}.{did_you_mean(name, PRESETS)}")
        return PRESETS[name]

    @staticmethod
    def from_toml(path: Path, base: Settings | None = None) -> Settings:
        """Settings of a TOML file on top of `base`."""
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise SettingsError(f"{path}: cannot be read ({e.strerror}); expected a TOML file of settings.") from e
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
            raise SettingsError(f"{path}: not a TOML file: {e}.") from e
        flat: dict[str, object] = {}
        for group, table in tables.items():
            if not isinstance(table, dict):
                raise SettingsError(f"{path}: {group} stands outside a table; expected [group] above name = value.")
            flat |= {f"{group}.{name}": value for name, value in table.items()}
        try:
            return (base or Settings()).with_overrides(flat)
        except SettingsError as e:
            raise SettingsError(f"{path}: {e}") from e

    def with_overrides(self, overrides: Mapping[str, object]) -> Settings:
        """A copy with `{"emr.delta": 0.1}` applied; strings are read as the setting's type."""
        changed: dict[str, dict[str, object]] = {}
        for key, value in overrides.items():
            group_name, _, name = key.partition(".")
            names = _all_names()
            if key not in names:
                raise SettingsError(f"Unknown setting {key!r}.{did_you_mean(key, names)}")
            changed.setdefault(group_name, {})[name] = _parsed(key, value, names[key])
        return replace(self, **{g: replace(getattr(self, g), **values) for g, values in changed.items()})

    def with_model_defaults(self, own: Mapping[str, float]) -> Settings:
        """A copy with a model's own numbers where these are negative."""
        mine = self.to_dict()
        keys = {key: key.split(".") for key in own}
        return self.with_overrides(
            {key: own[key] for key, (group, name) in keys.items() if float(mine[group][name]) < 0}
        )

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """Nested plain dict, as in the TOML file."""
        return dataclasses.asdict(self)


def _all_names() -> dict[str, dataclasses.Field[Any]]:
    settings = Settings()
    return {f"{g.name}.{f.name}": f for g in fields(settings) for f in fields(getattr(settings, g.name))}


def _parsed(key: str, value: object, f: dataclasses.Field[Any]) -> object:
    """A string from the command line as the field's type; other values unchanged."""
    kind = type(f.default)
    if not isinstance(value, str) or kind is str:
        return value
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise SettingsError(f"{key} = {value!r}: expected true or false.")
        return value.lower() == "true"
    try:
        return float(value)
    except ValueError as e:
        raise SettingsError(f"{key} = {value!r}: expected a number.") from e


PRESETS = {
    "paper": Settings(),
    "fast": Settings(prompts=Prompts(coarse_side=16, fine_side=32)),
}
