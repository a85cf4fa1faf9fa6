"""Settings: every number of the method, with its range, its source and its meaning.

Sources: "paper" is E-SAM (its section 3 and its Tables 2 to 4), "SAM" is SAM's automatic mask generation, "ours" is a
number that the paper leaves open. ``None`` means the model's own number, because models differ in how confident their
scores are (``ModelSpec.default_thresholds``). A TOML file has one table for each group. ``--set emr.delta=0.1`` changes
one number. ``esam-rt settings`` prints all of them.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from esam_rt.errors import SettingsError, did_you_mean
from esam_rt.setting_fields import Group, SettingInfo, Value, choice, number, share, switch

SAM_NAMES = {"min_mask_region_area": " SAM's name stands for cleanup.min_piece and cleanup.fill_holes."}


class Prompts(Group):
    """The two square grids of point prompts (E-SAM §3.2, Table 4)."""

    strategy: Literal["adaptive", "grid"] = choice(
        "grid", "paper §3.2", "grid decodes all coarse points, adaptive leaves out those in objects already found"
    )
    coarse_side: int = number(32, 1, 256, "paper Table 4", "points per side of the coarse grid, used by MMG")
    fine_side: int = number(64, 1, 256, "paper Table 4", "points per side of the fine grid, used by EMR's gallery")


class Adaptive(Group):
    """Numbers of the strategy ``adaptive``."""

    wave: int = number(64, 1, 65536, "ours", "prompts of the coarse grid between two decisions")
    agree: int = number(32, 1, 65536, "ours", "points in an object mask are left out if this many prompts gave it")
    agree_iou: float = share(0.8, "ours", "masks with this IoU agree")
    votes: int = number(16, 1, 65536, "ours", "replaces emr.votes; coarse prompts count too")


class Coherent(Group):
    """Prompts of a stream with ``track="prompts"``, for each frame after the first. They come from the frame before."""

    grid: int = number(8, 1, 65536, "ours", "points of the coarse grid in a frame; the next frame gets the next ones")
    gaps: int = number(4, 0, 65536, "ours", "most prompts of USR in a frame, in place of one in each gap")
    fine_side: int = number(8, 1, 256, "ours", "replaces prompts.fine_side")
    votes: int = number(4, 1, 65536, "ours", "replaces emr.votes; prompts of the frame count too")


class Filters(Group):
    """SAM's filters: a mask that passes all of them is a high-confidence mask."""

    score_min: float | None = share(None, "SAM 0.88", "minimum predicted IoU of a mask")
    stability_min: float | None = share(None, "SAM 0.95", "minimum stability score of a mask")
    stability_offset: float | None = number(
        None, 0.0, 20.0, "SAM 1.0", "logit offset of the two masks whose IoU is the stability score"
    )
    min_area: int = number(16, 1, 65536, "ours", "minimum area of a mask and of a fragment, in grid cells")


class Superpixels(Group):
    """Superpixels: Felzenszwalb (E-SAM §3.2) or SLIC (§4.4)."""

    method: Literal["felzenszwalb", "slic"] = choice("felzenszwalb", "paper §3.2", "superpixel algorithm")
    long_side_px: int = number(512, 16, 8192, "ours", "the image is reduced to this longest side first, in pixels")
    scale: float = number(100.0, 0.0, 1e6, "ours", "Felzenszwalb: larger values give larger superpixels")
    sigma: float = number(0.5, 0.0, 100.0, "ours", "Felzenszwalb: width of the Gaussian blur, in pixels")
    min_size: int = number(50, 1, 1_000_000, "ours", "Felzenszwalb: minimum area, in pixels at a longest side of 512")
    count: int = number(400, 1, 60_000, "ours", "SLIC: number of superpixels of a square image")
    compactness: float = number(10.0, 1e-3, 1e4, "ours", "SLIC: larger values give more square superpixels")


class Mmg(Group):
    """Multi-level mask generation (E-SAM §3.2)."""

    enabled: bool = switch(True, "paper Table 3", "run MMG; without it objects come from SAM's best masks")
    theta_o: float | None = share(None, "paper Table 4: 0.8", "θ_O: maximum IoU of two object masks after NMS")
    gamma_o: float = share(0.6, "paper eq. 2, Table 4", "γ_O: an object needs this IoU with some best-level mask")
    n_t: float = share(0.5, "ours; eq. 4", "N_t: base IoU threshold of adaptive NMS of parts and sub-parts")
    w_max: float = share(0.9, "ours; eq. 3", "density weight of the smallest superpixel; the largest has 0")


class Emr(Group):
    """Entity-level mask refinement (E-SAM §3.3)."""

    enabled: bool = switch(True, "paper Table 3", "run EMR; without it the object masks are only made disjoint")
    gallery: Literal["lazy", "exact"] = choice(
        "lazy", "ours", "lazy decodes fine prompts when they are needed, exact decodes all of them"
    )
    votes: int = number(64, 1, 65536, "ours", "lazy gallery: maximum prompts decoded for one overlap or one pair")
    delta: float = share(0.05, "paper Table 4", "δ: an overlap below this share is cut from the larger mask")
    tau: float = share(0.1, "paper eq. 6, Table 4", "τ: score gap up to which the object mask beats the best mask")
    vote_iou: float = share(0.9, "ours", "votes for masks with this IoU count as votes for one mask")
    cover: float = share(0.8, "ours", "share of a mask inside the guidance mask from which it counts as covered")
    top_k: int = number(5, 1, 100, "ours; eq. 7", "k: nearest superpixels that count for the similarity")
    similarity_min: float = number(1.0, 0.0, 100.0, "ours", "minimum similarity S_M of a pair that may merge")
    encompass: float = share(0.85, "ours; eq. 8", "share of each mask of a pair that the gallery mask must contain")
    fill: float = share(0.7, "ours; eq. 8", "share of the gallery mask that the pair must fill")


class Usr(Group):
    """Under-segmentation refinement (E-SAM §3.4)."""

    enabled: bool = switch(True, "paper Table 3", "run USR; without it gaps between entities stay")
    outside: float = share(0.5, "ours", "a superpixel gets a prompt if more than this share of it is uncovered")
    inside: float = share(0.95, "ours; eq. 9", "share of a region inside a part mask that moves its prompt there")
    rho: float = share(0.1, "paper eq. 10, Table 4", "ρ: a new mask with a higher IoU joins the entity")
    gain_min: float = share(0.001, "ours", "minimum share of the image that a new mask must newly cover")


class Render(Group):
    """The label map at the photo's resolution."""

    refine: bool = switch(True, "ours", "boundaries follow the photo's edges (guided filter); false: the logits alone")
    radius: float = number(0.04, 0.0, 0.5, "ours", "half side of the filter's windows, as a share of the longer side")
    epsilon: float = number(1e-4, 1e-8, 1.0, "ours", "smallest variance of colors (0 to 1) that counts as an edge")
    reach: int = number(2, 1, 16, "ours", "cells that a boundary may move")


class Cleanup(Group):
    """Specks and holes of the label map. Sizes are in pixels of a photo with a longer side of 512 pixels."""

    min_piece: int = number(600, 0, 1_000_000, "ours", "smaller pieces of an entity join a neighbor, in pixels; 0: off")
    fill_holes: int = number(100, 0, 1_000_000, "ours", "smaller holes and gaps are filled, in pixels; 0: off")


class Amg(Group):
    """The baselines: SAM's automatic mask generation, and its object level alone (E-SAM Table 2)."""

    nms: float | None = share(None, "SAM 0.7", "maximum IoU of two masks after NMS")


class Tiles(Group):
    """Tiles of a large photo, in addition to the whole photo. The model sees each at its full input."""

    side_px: int = number(0, 0, 65536, "ours", "side of a tile in pixels of the photo; 0: no such tiles")
    crop_n_layers: int = number(0, 0, 4, "SAM", "layers of tiles: layer i has 2^i tiles a side")
    overlap: float = number(0.25, 0.0, 0.9, "ours", "share of its side that a tile has in common with its neighbor")
    join_iou: float = number(
        0.5, 0.5, 1.0, "ours", "IoU in what two windows have in common from which entities are one"
    )
    small: float = share(0.01, "ours", "a tile's entity up to this share of the photo stands out from a larger one")


class Panorama(Group):
    """Panoramas: equirectangular photos, twice as wide as high. Their left and right edge are one."""

    enabled: bool = switch(False, "ours", "the photo is a panorama")
    overlap: float = share(0.125, "ours", "share of the width that is seen again beyond the right edge")


class Settings(BaseModel):
    """All settings. ``Settings()`` is the preset ``paper``. It cannot be changed; methods return changed copies.

    Attributes:
        prompts: Grids of point prompts.
        adaptive: The strategy ``adaptive`` of prompts.
        coherent: Prompts that the frame before chooses.
        filters: Filters of high-confidence masks.
        superpixels: Superpixels.
        mmg: Multi-level mask generation.
        emr: Entity-level mask refinement.
        usr: Under-segmentation refinement.
        amg: Baselines.
        tiles: Tiles of large photos.
        panorama: Panoramas.
        render: The label map at the photo's resolution.
        cleanup: Specks and holes of the label map.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    presets: ClassVar[tuple[str, ...]] = ("paper", "fast")

    prompts: Prompts = Prompts()
    adaptive: Adaptive = Adaptive()
    coherent: Coherent = Coherent()
    filters: Filters = Filters()
    superpixels: Superpixels = Superpixels()
    mmg: Mmg = Mmg()
    emr: Emr = Emr()
    usr: Usr = Usr()
    amg: Amg = Amg()
    tiles: Tiles = Tiles()
    panorama: Panorama = Panorama()
    render: Render = Render()
    cleanup: Cleanup = Cleanup()

    def __init__(self, **groups: Any) -> None:
        try:
            super().__init__(**groups)
        except ValidationError as e:
            raise SettingsError(_in_words(e)) from None

    @staticmethod
    def preset(name: str) -> Settings:
        """Return a preset.

        Args:
            name: ``paper`` (grids of 32 and 64 points a side) or ``fast`` (16 and 32, adaptive).

        Raises:
            SettingsError: The name is unknown.
        """
        if name not in Settings.presets:
            raise SettingsError(f"Unknown preset {name!r}.{did_you_mean(name, Settings.presets)}")
        if name == "paper":
            return Settings()
        return Settings(prompts=Prompts(strategy="adaptive", coarse_side=16, fine_side=32))

    @staticmethod
    def from_toml(path: Path, base: Settings | None = None) -> Settings:
        """Read a TOML file with one table for each group.

        Args:
            path: The file. The text ``"none"`` stands for the model's own number.
            base: Settings of what the file leaves out. Default: the preset ``paper``.

        Raises:
            SettingsError: The file cannot be read, or holds an unknown name or a value out of range.
        """
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
        """Return a copy with some numbers changed.

        Args:
            overrides: Values by full name, such as ``{"emr.delta": 0.1}``. Text is read as the setting's type.

        Raises:
            SettingsError: A name is unknown or a value is out of range.
        """
        known = all_settings()
        changed: dict[str, dict[str, object]] = {}
        for key, value in overrides.items():
            if key not in known:
                near = SAM_NAMES.get(key.rpartition(".")[2]) or did_you_mean(key, known)
                raise SettingsError(f"Unknown setting {key!r}.{near}")
            group, _, name = key.partition(".")
            changed.setdefault(group, {})[name] = known[key].read(value)
        groups = dict(self)
        return Settings(**groups | {group: groups[group].with_changes(**new) for group, new in changed.items()})

    def with_model_defaults(self, own: Mapping[str, float]) -> Settings:
        """Return a copy in which the model's own numbers replace ``None``.

        Args:
            own: The model's numbers by full name, see ``ModelSpec.default_thresholds``.
        """
        return self.with_overrides({name: value for name, value in own.items() if self.value(name) is None})

    @property
    def is_adaptive(self) -> bool:
        """True if prompts follow the strategy ``adaptive``."""
        return self.prompts.strategy == "adaptive"

    @property
    def is_tiled(self) -> bool:
        """True if a large photo is cut into tiles."""
        return self.tiles.side_px > 0 or self.tiles.crop_n_layers > 0

    def value(self, name: str) -> Value:
        """Return the value of a setting.

        Args:
            name: Full name, such as ``emr.delta``.
        """
        group, _, field = name.partition(".")
        value: Value = getattr(getattr(self, group), field)
        return value

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """Return nested plain dictionaries with the layout of the TOML file."""
        return self.model_dump()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema: types, ranges, choices, sources and descriptions of all settings."""
        return cls.model_json_schema()


@functools.cache
def all_settings() -> Mapping[str, SettingInfo]:
    """Return the descriptions of all settings by full name, in the order of the groups."""
    groups: list[type[Group]] = [type(field.default) for field in Settings.model_fields.values()]
    return {name: info for group in groups for name, info in group.infos().items()}


def decided(value: float | None, name: str) -> float:
    """Return a number that may have been left to the model.

    Args:
        value: The setting's value.
        name: The setting's full name, for the error.

    Raises:
        SettingsError: The value is still ``None``.
    """
    if value is None:
        raise SettingsError(f"{name} is None, which means the model's own number. Call with_model_defaults() first.")
    return value


def _in_words(error: ValidationError) -> str:
    """Describe the first error of pydantic about a group in one line."""
    first = error.errors()[0]
    place = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"Unknown group of settings {place!r}.{did_you_mean(place, list(Settings.model_fields))}"
    return f"{place} = {first['input']!r}: expected an object of class {place.capitalize()}."
