"""The command `settings`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from esam_rt.cli import option_types, output

if TYPE_CHECKING:
    from esam_rt.setting_fields import Value
    from esam_rt.settings import Settings

WIDTHS = {"name": 16, "value": 12, "range": 14, "source": 13, "meaning": 37}  # with the gaps, 100 columns


@output.exit_codes()
def settings(
    preset: option_types.Preset = "paper",
    config: option_types.Config = None,
    changes: option_types.Changes = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of the settings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """Print every number of the method: value, range, source and meaning."""
    chosen = option_types.settings_of(preset, config, changes)
    if schema:
        typer.echo(json.dumps(chosen.json_schema(), indent=1))
    elif as_json:
        typer.echo(json.dumps(_described(chosen), indent=1))
    else:
        _print(chosen)


def _described(chosen: Settings) -> dict[str, dict[str, object]]:
    from esam_rt.settings import all_settings

    return {
        name: {
            "value": chosen.value(name),
            "default": info.default,
            "range": info.range,
            "source": info.source,
            "meaning": info.meaning,
        }
        for name, info in all_settings().items()
    }


def _print(chosen: Settings) -> None:
    """Print one table for each group; values that differ from the preset `paper` are bold."""
    from esam_rt.settings import all_settings

    for group, of_group in chosen:
        table = Table(box=None, show_header=group == "prompts", padding=(0, 2, 0, 0), pad_edge=False)
        for title, width in WIDTHS.items():
            table.add_column(title, min_width=width if title == "name" else None, max_width=width, overflow="fold")
        for name, info in all_settings().items():
            if name.startswith(f"{group}."):
                value = _shown(chosen.value(name))
                value = value if chosen.value(name) == info.default else f"[bold]{value}[/bold]"
                table.add_row(name.partition(".")[2], value, info.range, info.source, info.meaning)
        heading = (type(of_group).__doc__ or "").splitlines()[0]
        output.stdout.print(f"[bold]{group}[/bold]  {heading}", highlight=False)
        output.stdout.print(table)
        output.stdout.print()
    output.stdout.print("Change one number: --set GROUP.NAME=VALUE, such as --set emr.delta=0.1", highlight=False)


def _shown(value: Value) -> str:
    if value is None:
        return "model's own"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
