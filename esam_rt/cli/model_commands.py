"""The commands `export`, `models`, `compile-kernels` and `doctor`."""

from __future__ import annotations

import json
import shlex
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from esam_rt.cli import option_types, output, progress


def export(
    model: option_types.ModelName,
    checkpoint: option_types.Checkpoint = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    attention: Annotated[
        str | None, typer.Option(help="Of a ViT: concat, bias or fused (opset 23). Default: the fastest on a CPU.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for the files. Default: the cache, where run looks.")
    ] = None,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Turn a checkpoint into ONNX files, without PyTorch: encoder, decoder, masks and logits."""
    with output.exit_codes():
        from esam_rt.export import AttentionForm, Precision
        from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
        from esam_rt.loading.checkpoints import checkpoint_of
        from esam_rt.loading.onnx_cache import export_to, onnx_model
        from esam_rt.sam.models import get_model

        row = get_model(model)
        folder = None if out is None else option_types.path("--out", out)
        option_types.check_choice("--precision", precision, Precision)
        if attention is not None:
            option_types.check_choice("--attention", attention, AttentionForm)
        start = time.perf_counter()
        with progress.Steps(shown=output.stderr.is_terminal and not quiet and not as_json) as steps:
            listener = steps.listener()
            file = checkpoint_of(row, checkpoint, listener)
            steps.begin(f"reading {file.name}")
            digest = checkpoint_sha256(file)
            if folder is None:
                files = onnx_model(row, file, precision, attention, listener).files
            else:
                files = export_to(row, file, folder, precision, attention, listener)
        published = row.remote is not None and digest == row.remote.sha256
        if as_json:
            result = {
                "model": model,
                "precision": precision,
                "checkpoint": str(file),
                "checkpoint_sha256": digest,
                "published": published,
                "files": [str(f) for f in files],
            }
            typer.echo(json.dumps(result))
        elif not quiet:
            ours = "the weights that ship" if file == row.checkpoint else "not the published file: weights of your own"
            kind = "the published file" if published else ours
            output.stdout.print(f"{file} ({kind})", soft_wrap=True, highlight=False, markup=False)
            for f in files:
                output.stdout.print(
                    f"{f.stat().st_size / 1e6:9.1f} MB  {f}", soft_wrap=True, highlight=False, markup=False
                )
            output.stdout.print(f"{len(files)} files in {time.perf_counter() - start:.1f} s.", highlight=False)
            if folder is None and attention in (None, row.attention):
                given = f" --checkpoint {shlex.quote(str(checkpoint))}" if checkpoint else ""
                given += f" --precision {precision}" if precision != "fp32" else ""
                line = f"Use it: esam-rt run PHOTOS --model {model}{given}"
                output.stdout.print(line, soft_wrap=True, highlight=False, markup=False)


def compile_kernels(
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was compiled as JSON.")] = False,
) -> None:
    """Compile the Numba kernels into the cache, for this CPU, so that no later command has to."""
    with output.exit_codes():
        from esam_rt.kernels.warmup import compile_all

        with progress.Steps(shown=output.stderr.is_terminal and not quiet and not as_json) as steps:
            steps.begin("compiling the kernels")
            result = compile_all()
        if as_json:
            typer.echo(json.dumps(result.to_json()))
        elif not quiet:
            line = f"{result.kernels} kernels in {result.folder}, {result.compiled} of them compiled now, in "
            line += f"{result.seconds:.1f} s."
            output.stdout.print(line, soft_wrap=True, highlight=False, markup=False)


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models, and what the cache has of them."""
    from esam_rt.loading.checkpoints import is_downloaded
    from esam_rt.loading.onnx_cache import exported
    from esam_rt.sam.models import MODELS

    rows: list[dict[str, Any]] = []
    for m in MODELS.values():
        size = m.remote.size_bytes if m.remote else m.checkpoint.stat().st_size if m.checkpoint else 0
        here = "ships" if m.checkpoint else "in the cache" if is_downloaded(m) else ""
        rows.append(
            {key: getattr(m, key) for key in ("name", "description", "license", "input_px")}
            | {"checkpoint_bytes": size, "checkpoint": here}
            | {"url": m.remote.url if m.remote else None, "exported": exported(m)}
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("model", "input", "checkpoint", "here", "exported", "description", "license", box=None)
    for row in rows:
        megabytes = f"{row['checkpoint_bytes'] / 1e6:,.0f} MB"
        here, made = row["checkpoint"] or "-", " ".join(row["exported"]) or "-"
        table.add_row(row["name"], f"{row['input_px']} px", megabytes, here, made, row["description"], row["license"])
    output.stdout.print(table)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, providers and caches, what is missing and the command that brings it."""
    from esam_rt.loading.doctor import State, diagnose

    colors = {State.OK: "green", State.ABSENT: "yellow", State.BAD: "red"}
    diagnosis = diagnose()
    if as_json:
        typer.echo(json.dumps(diagnosis.to_json()))
    else:
        table = Table("", "state", "found", box=None)
        table.columns[2].overflow = "fold"
        for f in diagnosis.findings:
            table.add_row(f.name, f"[{colors[f.state]}]{f.state}[/]", escape(f.found))
        output.stdout.print(table)
        for f in diagnosis.findings:  # below the table, so that a command stays on one line and can be copied
            if f.remedy:
                verb = "to add" if f.state is State.ABSENT else "to mend"
                output.stdout.print(f"{verb} {f.name}: {f.remedy}", soft_wrap=True, highlight=False, markup=False)
        able = ", ".join(diagnosis.backends)
        output.stdout.print(
            f"esam-rt can run on: {able}" if able else "esam-rt cannot run here yet; see the lines marked bad."
        )
    raise typer.Exit(diagnosis.exit_code)
