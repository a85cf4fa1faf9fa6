"""The commands `export`, `models`, `compile-kernels` and `doctor`."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from esam_rt.cli import option_types, output

if TYPE_CHECKING:
    from esam_rt.loading.doctor import Diagnosis
    from esam_rt.loading.model_files import ExportedFiles


@output.exit_codes()
def export(
    model: option_types.ModelName,
    checkpoint: option_types.Checkpoint = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    attention: Annotated[
        str | None,
        typer.Option(help="Attention form of a ViT: concat, bias or fused (opset 23). Default: the fastest on a CPU."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for the files. Default: the cache, which `run` reads.")
    ] = None,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Convert a checkpoint to ONNX files. It makes the encoder, decoder, mask head and logits without PyTorch."""
    from esam_rt.cli import progress
    from esam_rt.export import AttentionForm, Precision
    from esam_rt.loading.model_files import export_files
    from esam_rt.sam.models import get_model

    get_model(model)
    folder = None if out is None else option_types.path("--out", out)
    option_types.check_choice("--precision", precision, Precision)
    if attention is not None:
        option_types.check_choice("--attention", attention, AttentionForm)
    start = time.perf_counter()
    with progress.Steps(output.shows_progress(quiet, as_json)) as steps:
        result = export_files(model, checkpoint, precision, attention, folder, steps.on_event)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    elif not quiet:
        _print_exported(result, checkpoint, time.perf_counter() - start)


def _print_exported(result: ExportedFiles, checkpoint: Path | None, seconds: float) -> None:
    """Print the checkpoint, the files and the command that uses them."""
    ours = "the weights that ship" if result.ships else "not the published file: weights of your own"
    output.print_line(f"{result.checkpoint} ({'the published file' if result.published else ours})")
    for file in result.files:
        output.print_line(f"{file.stat().st_size / 1e6:9.1f} MB  {file}")
    output.print_line(f"{len(result.files)} files in {seconds:.1f} s.")
    if result.run_uses_it:
        options = f" --checkpoint {shlex.quote(str(checkpoint))}" if checkpoint else ""
        options += f" --precision {result.precision}" if result.precision != "fp32" else ""
        output.print_line(f"Use it: esam-rt run PHOTOS --model {result.model}{options}")


@output.exit_codes()
def compile_kernels(
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile the Numba kernels for this CPU. Later commands then start faster."""
    from esam_rt.cli import progress
    from esam_rt.kernels.warmup import compile_all

    with progress.Steps(output.shows_progress(quiet, as_json)) as steps:
        steps.begin("compiling the kernels")
        result = compile_all()
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    elif not quiet:
        output.print_line(
            f"{result.kernels} kernels in {result.folder}, {result.compiled} of them compiled now, "
            f"in {result.seconds:.1f} s."
        )


@output.exit_codes()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models and their files in the cache."""
    from esam_rt.loading.model_files import list_models

    listed = list_models()
    if as_json:
        typer.echo(json.dumps([model.to_json() for model in listed]))
        return
    table = Table("model", "input", "checkpoint", "here", "exported", "description", "license", box=None)
    for model in listed:
        megabytes, made = f"{model.checkpoint_bytes / 1e6:,.0f} MB", " ".join(model.exported) or "-"
        here = model.checkpoint or "-"
        table.add_row(model.name, f"{model.input_px} px", megabytes, here, made, model.description, model.license)
    output.stdout.print(table)


@output.exit_codes()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print one block for a bug report, without names of people or files.")
    ] = False,
) -> None:
    """Show versions, providers and caches. Name the command that installs each missing part."""
    from esam_rt.loading.bug_report import as_block, bug_report
    from esam_rt.loading.doctor import diagnose

    diagnosis = diagnose()
    if report:
        lines = bug_report(diagnosis)
        typer.echo(json.dumps(lines) if as_json else as_block(lines))
    elif as_json:
        typer.echo(json.dumps(diagnosis.to_json()))
    else:
        _print_diagnosis(diagnosis)
    raise typer.Exit(diagnosis.exit_code)


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print a table, then the commands below it: a command stays on one line and can be copied."""
    from esam_rt.loading.doctor import State

    colors = {State.OK: "green", State.ABSENT: "yellow", State.BAD: "red"}
    table = Table("", "state", "found", box=None)
    table.columns[2].overflow = "fold"
    for f in diagnosis.findings:
        table.add_row(f.name, f"[{colors[f.state]}]{f.state}[/]", escape(f.found))
    output.stdout.print(table)
    for f in diagnosis.findings:
        if f.remedy:
            output.print_line(f"to {'add' if f.state is State.ABSENT else 'mend'} {f.name}: {f.remedy}")
    able = ", ".join(diagnosis.backends)
    output.print_line(f"esam-rt can run on: {able}" if able else "esam-rt cannot run yet. See the lines marked bad.")
