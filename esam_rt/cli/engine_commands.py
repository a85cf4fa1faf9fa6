"""The commands `build-engine` and `engines`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from esam_rt.cli import option_types, output
from esam_rt.errors import ModelError
from esam_rt.loading.execution import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from esam_rt.loading.engine_building import BuiltEngines
    from esam_rt.loading.engine_record import EngineRecord

engines_app = typer.Typer(help="List, verify and remove the engines in the cache.", no_args_is_help=True)


@output.exit_codes()
def build_engine(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Name of a model. `esam-rt models` lists them.")
    ] = None,
    checkpoint: option_types.Checkpoint = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of `esam-rt export --out`, in place of MODEL.")
    ] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx.")] = "tensorrt-rtx",
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or bf16. Default: fp16, or fp32 for onnxruntime, or that of --onnx."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="GPUs that will run the engines, such as sm_86,sm_89. Default: the GPU of this machine."),
    ] = "",
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Largest number of prompts of one call. Default: 64.")
    ] = None,
    workspace: Annotated[
        int | None, typer.Option(min=1, metavar="MB", help="Scratch memory of the builder. Default: no limit.")
    ] = None,
    no_fusion: Annotated[bool, typer.Option("--no-fusion", help="Do not fuse attention.")] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Build engines that later versions of TensorRT run too.")
    ] = False,
    strip_weights: Annotated[
        bool,
        typer.Option("--strip-weights", help="Build engines without weights. A run reads them from the ONNX files."),
    ] = False,
    gpu: Annotated[int, typer.Option(min=0, help="Index of the GPU that builds.")] = 0,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Folder for the engines. Default: the cache.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild existing engines.")] = False,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build the TensorRT engines of a model. It builds the encoder, decoder, mask head and logits, and tests them."""
    from esam_rt.cli import progress
    from esam_rt.engines.tensorrt.builder import BuildOptions
    from esam_rt.loading.engine_building import build_engines

    option_types.check_choice("--backend", backend, BACKENDS)
    if precision is not None:
        option_types.check_choice("--precision", precision, PRECISIONS)
    options = None
    if target or max_batch or workspace or version_compatible or strip_weights:
        batch = max_batch or BuildOptions.max_batch
        options = BuildOptions(option_types.names(target), batch, workspace, version_compatible, strip_weights)
    start = time.perf_counter()
    with progress.Steps(output.shows_progress(quiet, as_json)) as steps:
        built = build_engines(
            model,
            backend,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            checkpoint=checkpoint,
            onnx=onnx,
            options=options,
            fusion=not no_fusion,
            out=None if out is None else option_types.path("--out", out),
            force=force,
            gpu=gpu,
            on_event=steps.on_event,
        )
    if as_json:
        typer.echo(json.dumps(built.to_json()))
    elif not quiet:
        _print_built(built, time.perf_counter() - start)


def _print_built(built: BuiltEngines, seconds: float) -> None:
    """Print the folder, for TensorRT after the engines and their self-test."""
    if built.record is None:
        output.print_line("ONNX Runtime runs the graphs themselves. No engine is needed.")
    else:
        _print_record(built.record)
        output.print_line(_self_test(built, built.record.self_test or {}))
    output.print_line(f"{built.folder} in {seconds:.1f} s")


def _print_record(record: EngineRecord) -> None:
    """Print one row for each engine, and the GPUs that run them."""
    table = Table("engine", "size", "layers", "fused attention", "built in", box=None)
    for name, engine in record.engines.items():
        size, attention = f"{engine.size_bytes / 1e6:.1f} MB", str(engine.attention or "-")
        table.add_row(name, size, str(engine.layers), attention, f"{engine.seconds:.1f} s")
    output.stdout.print(table)
    output.print_line(f"{record.backend} {record.backend_version} for {', '.join(record.runs_on_names)}")


def _self_test(built: BuiltEngines, test: Any) -> str:
    if built.untested or not test:
        return f"Self-test skipped: {built.untested}."
    return (
        f"Self-test: {test['masks']} masks, mean IoU {test['iou']:.4f} with ONNX Runtime in fp32, scores within "
        f"{test['score']:.4f}."
    )


@engines_app.command("list")
@output.exit_codes()
def list_engines(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the engines in the cache."""
    from esam_rt.loading import engine_inventory

    found = engine_inventory.list_engines()
    if as_json:
        typer.echo(json.dumps([engines.to_json() for engines in found]))
        return
    table = Table("model", "backend", "precision", "runs on", "size", "built", "state", box=None)
    for engines in found:
        cells = (
            engines.model or Path(engines.folder).name,
            f"{engines.backend or '?'} {engines.backend_version or ''}".strip(),
            engines.precision or "?",
            ", ".join(engines.runs_on),
            f"{engines.size_bytes / 1e6:.0f} MB",
            (engines.built or "?")[:10],
            "outdated" if engines.why_not else "ok",
        )
        table.add_row(*map(escape, cells))
    output.stdout.print(table if found else "No engines yet: esam-rt build-engine MODEL.")


@engines_app.command("verify")
@output.exit_codes()
def verify_engines() -> None:
    """Compare each engine in the cache with its checksum."""
    from esam_rt.loading import engine_inventory

    broken = 0
    for folder, wrong in engine_inventory.verify_engines():
        if wrong:
            broken += 1
            output.print_error(wrong)
        else:
            output.print_line(f"ok  {folder}")
    if broken:
        raise typer.Exit(ModelError.exit_code)


@engines_app.command("prune")
@output.exit_codes()
def prune_engines(
    everything: Annotated[bool, typer.Option("--all", help="Remove valid engines too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
) -> None:
    """Remove engines that no run can use. They are damaged, or made for another version of the library or exporter."""
    from esam_rt.loading import engine_inventory

    freed = 0
    for pruned in engine_inventory.prune_engines(everything, dry_run):
        output.print_line(f"{pruned.folder}: {pruned.why}")
        freed += pruned.freed_bytes
    output.print_line(f"{freed / 1e6:.0f} MB freed.")
