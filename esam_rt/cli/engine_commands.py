"""The commands `build-engine` and `engines`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from esam_rt.cli import option_types, output, progress
from esam_rt.errors import EsamError, ModelError, SettingsError

if TYPE_CHECKING:
    from esam_rt.loading.events import ModelListener
    from esam_rt.loading.exported_folder import GivenGraphs
    from esam_rt.sam.models import ModelSpec

BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime")

engines_app = typer.Typer(help="List, verify and prune the engines that were built.", no_args_is_help=True)


def build_engine(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A name that `esam-rt models` lists.")] = None,
    checkpoint: option_types.Checkpoint = None,
    onnx: Annotated[Path | None, typer.Option(help="Folder of `esam-rt export --out`, in place of MODEL.")] = None,
    backend: Annotated[str, typer.Option(help="tensorrt, tensorrt-rtx or onnxruntime.")] = "tensorrt-rtx",
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16. Default: fp16, for onnxruntime fp32; that of --onnx.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="GPUs that will run it, such as sm_86,sm_89; no GPU is needed. Default: the one here.")
    ] = "",
    max_batch: Annotated[int | None, typer.Option(min=1, help="Prompts of one call at most; default: 64.")] = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="Scratch memory in MB. Default: all.")] = None,
    no_fusion: Annotated[bool, typer.Option("--no-fusion", help="No fused attention.")] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Engines that later versions of TensorRT run too.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Engines without weights; loading takes them from the graphs.")
    ] = False,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Folder for the engines. Default: the cache.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even what is there.")] = False,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was built as JSON.")] = False,
) -> None:
    """Build the engines of a model, or of graphs that were exported: encoder, decoder, masks and logits."""
    with output.exit_codes():
        from esam_rt.export import Precision
        from esam_rt.sam.models import get_model

        option_types.check_choice("--backend", backend, BACKENDS)
        folder = None if out is None else option_types.path("--out", out)
        if precision is not None:
            option_types.check_choice("--precision", precision, Precision)
        given = None
        if onnx is not None:
            given = _given(onnx, backend, model, precision, checkpoint, no_fusion)
            row, precision = given.row, given.precision
        elif model is not None:
            row, precision = get_model(model), precision or ("fp32" if backend == "onnxruntime" else "fp16")
        else:
            raise SettingsError("Found no MODEL, expected a name that esam-rt models lists, or --onnx FOLDER.")
        start, untried = time.perf_counter(), "that takes one of these GPUs"
        with progress.Steps(shown=output.stderr.is_terminal and not quiet and not as_json) as steps:
            if backend == "onnxruntime":
                from esam_rt.loading.execution import ExecutionConfig
                from esam_rt.loading.onnx_cache import onnx_model

                if any((target, folder, workspace, max_batch, no_fusion, version_compatible, strip_weights, force)):
                    raise SettingsError(
                        "ONNX Runtime runs graphs: esam-rt export has --out and --attention; --target, --max-batch, "
                        "--workspace, --no-fusion, --version-compatible, --strip-weights and --force are for TensorRT."
                    )
                ExecutionConfig(backend, precision=precision)  # SettingsError for one that it does not run
                files = onnx_model(row, checkpoint, precision, None, steps.listener()).files
                result: dict[str, Any] = {"backend": backend, "folder": str(files[0].parent)}
            else:
                from esam_rt.engines.tensorrt.builder import BuildOptions
                from esam_rt.loading.engine_cache import engine_set, gpu_here
                from esam_rt.loading.engine_record import EngineSpec, checked, runs_on
                from esam_rt.loading.execution import ExecutionConfig
                from esam_rt.loading.loader import load_sam

                targets = tuple(name.strip() for name in target.split(",") if name.strip())
                options = BuildOptions(
                    targets, max_batch or BuildOptions.max_batch, workspace, version_compatible, strip_weights
                )
                spec = EngineSpec(backend, precision, not no_fusion, options, gpu_here())
                graphs = given.onnx if given else None
                built = engine_set(row, spec, checkpoint, folder, force=force, listener=steps.listener(), graphs=graphs)
                result = {"backend": backend, "folder": str(built.folder), **built.sidecar}
                if version_compatible and folder is not None:
                    untried = "engines for other versions are run from the cache only"
                elif runs_on(built.sidecar, spec.gpu):
                    if weights := _weights(row, given, checkpoint, steps.listener()):
                        execution = ExecutionConfig(backend, precision=precision, engines=built.folder)
                        load_sam(row.name, execution, weights, steps.listener()).close()  # which tests them
                        result |= checked(built.folder).sidecar
                    else:
                        untried = "that takes the weights of these graphs, --checkpoint"
        if as_json:
            typer.echo(json.dumps(result))
        elif not quiet:
            _print_built(result, untried, time.perf_counter() - start)


def _given(
    folder: Path, backend: str, model: str | None, precision: str | None, checkpoint: Path | None, no_fusion: bool
) -> GivenGraphs:
    """The graphs of --onnx; SettingsError or ModelError where other options want others."""
    from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
    from esam_rt.loading.exported_folder import given_graphs

    if backend == "onnxruntime":
        raise SettingsError(f"--onnx {folder}: ONNX Runtime runs graphs themselves, expected a backend of TensorRT.")
    if no_fusion:
        raise SettingsError(f"--onnx {folder}: found --no-fusion, expected esam-rt export --attention concat before.")
    given = given_graphs(folder)
    for option, wanted, found in (("MODEL", model, given.row.name), ("--precision", precision, given.precision)):
        if wanted not in (None, found):
            raise SettingsError(f"{option} {wanted}: the graphs of {folder} are of {found}; leave {option} out.")
    if checkpoint is not None and (digest := checkpoint_sha256(checkpoint)) != given.onnx.checkpoint_sha256:
        raise ModelError(
            f"--checkpoint {checkpoint}: found SHA-256 {digest[:12]}…, expected {given.onnx.checkpoint_sha256[:12]}…, "
            f"of which the graphs of {folder} were made."
        )
    return given


def _weights(
    row: ModelSpec, given: GivenGraphs | None, checkpoint: Path | None, listener: ModelListener
) -> Path | None:
    """The checkpoint that engines can be compared with; None for given graphs of one that nobody named."""
    from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
    from esam_rt.loading.checkpoints import checkpoint_of

    if given is not None and checkpoint is None:
        ships = row.checkpoint and checkpoint_sha256(row.checkpoint)
        if given.onnx.checkpoint_sha256 not in (ships, row.remote and row.remote.sha256):
            return None
    return checkpoint_of(row, checkpoint, listener)


def _print_built(result: dict[str, Any], untried: str, seconds: float) -> None:
    """Size, layers and attention of each engine, and where they are."""
    if engines := result.get("engines"):
        table = Table("engine", "size", "layers", "fused attention", "built in", box=None)
        for name, entry in engines.items():
            size, attention = f"{entry['size_bytes'] / 1e6:.1f} MB", str(entry["attention"] or "-")
            table.add_row(name, size, str(entry["layers"]), attention, f"{entry['seconds']:.1f} s")
        output.stdout.print(table)
        whom = ", ".join(result["targets"]) or result["gpu"]["name"]
        output.stdout.print(f"{result['backend']} {result['backend_version']} for {whom}", highlight=False)
        tried = f"Not tried: {untried}."
        if test := result.get("self_test"):
            tried = (
                f"Self-test: {test['masks']} masks, mean IoU {test['iou']:.4f} with ONNX Runtime in fp32, scores within"
            )
            tried += f" {test['score']:.4f}."
        output.stdout.print(tried, soft_wrap=True, highlight=False)
    else:
        output.stdout.print("ONNX Runtime runs the graphs themselves; nothing is to be built.", highlight=False)
    line = f"{result['folder']} in {seconds:.1f} s"
    output.stdout.print(line, soft_wrap=True, highlight=False, markup=False)


@engines_app.command("list")
def list_engines(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the engines in the cache."""
    with output.exit_codes():
        from esam_rt.loading.engine_cache import outdated, stored
        from esam_rt.loading.engine_record import checked

        rows: list[dict[str, Any]] = []
        for folder in stored():
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            try:
                sidecar: dict[str, Any] = dict(checked(folder).sidecar)
            except EsamError:
                sidecar = {}
            fields = {name: sidecar.get(name) for name in ("model", "backend", "backend_version", "precision", "built")}
            runs_on = sidecar.get("targets") or [(sidecar.get("gpu") or {}).get("name", "?")]
            rows.append(
                {"folder": str(folder), **fields, "runs_on": runs_on, "size_bytes": size, "why_not": outdated(folder)}
            )
        if as_json:
            typer.echo(json.dumps(rows))
            return
        table = Table("model", "backend", "precision", "runs on", "size", "built", "state", box=None)
        for row in rows:
            name, built = row["model"] or Path(row["folder"]).name, (row["built"] or "?")[:10]
            backend = f"{row['backend'] or '?'} {row['backend_version'] or ''}".strip()
            megabytes, state = f"{row['size_bytes'] / 1e6:.0f} MB", "of no use" if row["why_not"] else "ok"
            cells = (name, backend, row["precision"] or "?", ", ".join(row["runs_on"]), megabytes, built, state)
            table.add_row(*map(escape, cells))
        output.stdout.print(table if rows else "No engines yet: esam-rt build-engine MODEL.")


@engines_app.command("verify")
def verify_engines() -> None:
    """Compare every engine in the cache with its hash."""
    with output.exit_codes():
        from esam_rt.loading.engine_cache import stored, verify

        broken = 0
        for folder in stored():
            wrong = verify(folder)
            broken += wrong is not None
            if wrong:
                output.print_error(wrong)
            else:
                output.stdout.print(f"ok  {folder}", soft_wrap=True, highlight=False, markup=False)
        if broken:
            raise typer.Exit(ModelError.exit_code)


@engines_app.command("prune")
def prune_engines(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are in order.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove engines that no run will use any more: damaged, or of other versions of the library or the exporter."""
    with output.exit_codes():
        from esam_rt.loading.engine_cache import outdated, remove, stored, verify
        from esam_rt.loading.library_caches import prune

        freed = 0
        for folder in stored():
            why = "all are to go" if everything else outdated(folder) or verify(folder)
            if why:
                size = 0 if dry_run else remove(folder)
                why = f"{why}; left alone, it is being built" if size is None else why
                output.stdout.print(f"{folder}: {why}", soft_wrap=True, highlight=False, markup=False)
                freed += size or 0
        for folder, size in prune(everything, dry_run):
            why = "all are to go" if everything else "of a library that is not installed"
            output.stdout.print(f"{folder}: {why}", soft_wrap=True, highlight=False, markup=False)
            freed += 0 if dry_run else size
        output.stdout.print(f"{freed / 1e6:.0f} MB freed.", highlight=False)
