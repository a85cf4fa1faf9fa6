"""The command ``esam-rt``: registers its commands."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from esam_rt.cli import output
from esam_rt.cli.engine_commands import build_engine, engines_app
from esam_rt.cli.eval_command import evaluate
from esam_rt.cli.model_commands import compile_kernels, doctor, export, models
from esam_rt.cli.run_command import run
from esam_rt.cli.settings_command import settings
from esam_rt.cli.triton_command import export_triton

app = typer.Typer(
    name="esam-rt",
    help="Segment every entity in a photo with E-SAM: no training, no PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes of rich take 50 ms to import, and wrap each option to a third of the line
)
app.command()(run)
app.command("eval")(evaluate)
app.command()(models)
app.command()(export)
app.command()(settings)
app.command("build-engine")(build_engine)
app.add_typer(engines_app, name="engines")
app.command("export-triton")(export_triton)
app.command("compile-kernels")(compile_kernels)
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        from esam_rt._version import __version__

        typer.echo(f"esam-rt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Print warnings of the library as lines on stderr, for all commands."""
    log = logging.getLogger("esam_rt")
    log.handlers = [output.WarningLines()]
