"""The tables of E-SAM's paper as rows of settings, with the figures that the paper reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from esam_rt.errors import SettingsError, did_you_mean

MODULES = ("mmg", "emr", "usr")
WHOLE_GRID: dict[str, object] = {"prompts.strategy": "grid"}
"""Settings of the tables of the paper. It decodes every prompt of the coarse grid."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: Unique name.
        changes: Settings that differ from the given ones, such as ``{"emr.delta": 0.1}``.
        method: A method of ``EntitySegmenter``.
        group: Rows that vary one number share a group. They are compared with the first row of it.
        paper: AP^e, or AP^e, AP50 and AP75 in percent that the paper reports, by model.
    """

    name: str
    changes: Mapping[str, object] = field(default_factory=dict)
    method: str = "e-sam"
    group: str = ""
    paper: Mapping[str, Sequence[float]] = field(default_factory=dict)


def _modules(*on: str, **changes: object) -> dict[str, object]:
    return {f"{module}.enabled": module in on for module in MODULES} | changes


def _sweep(setting: str, title: str, values: Mapping[float, float | None], *on: str) -> list[Row]:
    """Table 4 varies one number at a time. Modules that the paper adds later are off. The backbone is ViT-L."""
    return [
        Row(
            f"{title} {value:g}",
            {**_modules(*on), setting: value},
            group=title,
            paper={} if ap is None else {"vit_l": (ap,)},
        )
        for value, ap in values.items()
    ]


def _grids(sides: Mapping[tuple[int, int], float | None]) -> list[Row]:
    return [
        Row(
            f"prompts {coarse}/{fine}",
            {"prompts.coarse_side": coarse, "prompts.fine_side": fine},
            group="prompts",
            paper={} if ap is None else {"vit_l": (ap,)},
        )
        for (coarse, fine), ap in sides.items()
    ]


_TABLE_3 = {
    (): (17.3, 23.1, 18.0),
    ("mmg",): (20.3, 40.4, 19.7),
    ("emr",): (29.5, 50.6, 29.1),
    ("usr",): (22.7, 31.4, 23.0),
    ("emr", "usr"): (40.8, 57.4, 40.1),
    ("mmg", "usr"): (38.1, 54.9, 37.2),
    ("mmg", "emr"): (35.0, 54.1, 35.4),
    MODULES: (43.6, 60.8, 43.1),
}
TABLES: dict[str, Sequence[Row]] = {
    "1": (
        Row("SAM", method="amg", paper={"vit_h": (20.1, 32.9, 19.4)}),
        Row("E-SAM", paper={"vit_b": (40.1, 57.8, 38.9), "vit_l": (45.9, 62.7, 45.3), "vit_h": (50.2, 66.8, 49.9)}),
    ),
    "2": (
        Row("SAM", method="amg", paper={"vit_b": (10.5,), "vit_l": (17.3,), "vit_h": (17.0,)}),
        Row("SAM^O", method="sam-o", paper={"vit_b": (12.2,), "vit_l": (21.6,), "vit_h": (23.7,)}),
        Row("E-SAM", paper={"vit_b": (35.8,), "vit_l": (43.6,), "vit_h": (48.9,)}),
    ),
    "3": tuple(
        Row(" + ".join(on).upper() or "none", _modules(*on), paper={"vit_l": ap}) for on, ap in _TABLE_3.items()
    ),
    "4": (
        *_sweep("mmg.theta_o", "θ_O", {0.7: 19.5, 0.75: 19.8, 0.8: 20.3, 0.9: 19.6}, "mmg"),
        *_sweep("mmg.gamma_o", "γ_O", {0.3: 17.6, 0.6: 20.3, 0.9: 18.2, 1.0: 19.6}, "mmg"),
        *_sweep("emr.delta", "δ", {0.01: 34.1, 0.05: 35.0, 0.1: 34.4, 0.2: 33.8}, "mmg", "emr"),
        *_sweep("emr.tau", "τ", {0: 34.1, 0.05: 34.5, 0.1: 35.0, 0.2: None}, "mmg", "emr"),
        *_sweep("usr.rho", "ρ", {0: 43.4, 0.1: 43.6, 0.2: 42.9}, *MODULES),
        *_grids({(16, 16): 39.8, (16, 32): 41.9, (16, 64): None, (32, 32): None, (32, 64): 43.6}),
    ),
    "5": (Row("E-SAM", paper={"vit_b": (35.8,), "vit_l": (43.6,), "vit_h": (48.9,)}),),
    # Section 4.4 and the supplement compare SLIC and Felzenszwalb; the paper's body has no figures for them.
    "superpixels": (
        Row("E-SAM, Felzenszwalb"),
        Row("E-SAM, SLIC", {"superpixels.method": "slic"}),
        Row("Felzenszwalb alone", method="superpixels"),
        Row("SLIC alone", {"superpixels.method": "slic"}, method="superpixels"),
    ),
}
TABLES["all"] = tuple(
    replace(row, name=f"{table}: {row.name}", group=f"{table}: {row.group}")
    for table in "1234"
    for row in TABLES[table]
)
TIMED = ("5", "all")
PAPER_SECONDS = {"vit_h": {"encoder": 5.89, "mmg": 1.22, "emr": 1.58, "usr": 1.15, "total": 9.84}}
"""Table 5 by model. The paper has no line for the decoder: the other stages include its seconds."""
PAPER_METRICS = ("AP", "AP50", "AP75")


def paper_figures(row: Row, model: str) -> dict[str, float]:
    """Return the metrics in percent that the paper reports for a row; empty if there are no figures.

    Args:
        row: A row of a table.
        model: Name of the backbone, such as ``vit_l``.
    """
    return dict(zip(PAPER_METRICS, row.paper.get(model, ()), strict=False))


def base_row(row: Row, rows: Sequence[Row]) -> Row:
    """Return the row that a row is compared with: the first one of its group.

    Args:
        row: One of ``rows``.
        rows: All rows of the table.
    """
    return next(other for other in rows if other.group == row.group)


def build_rows(table: str | None, texts: Sequence[str]) -> list[Row]:
    """Return the rows of a table of the paper, with the whole grid, followed by rows that the user wrote.

    Args:
        table: A key of ``TABLES``, or None.
        texts: Rows as ``NAME:SETTING=VALUE[,...]``. ``method`` may be one of the settings.

    Raises:
        SettingsError: The table is unknown, a text has another form, or two rows share a name.
    """
    if table is not None and table not in TABLES:
        raise SettingsError(f"Unknown table {table!r}.{did_you_mean(table, TABLES)}")
    rows = [replace(row, changes={**WHOLE_GRID, **row.changes}) for row in TABLES[table]] if table is not None else []
    for text in texts:
        name, _, settings = text.partition(":")
        changes: dict[str, object] = {}
        for item in filter(None, settings.split(",")):
            key, equals, value = item.partition("=")
            if not equals:
                raise SettingsError(f"--row {text}: expected NAME:SETTING=VALUE[,…], such as 'one vote:emr.votes=1'.")
            changes[key.strip()] = value.strip()
        method = str(changes.pop("method", "e-sam"))
        rows.append(Row(name.strip(), changes, method))
    for i, row in enumerate(rows):
        if not row.name or row.name in {other.name for other in rows[:i]}:
            raise SettingsError(f"--row: {row.name!r} is empty or names two rows; give each row a unique name.")
    return rows
