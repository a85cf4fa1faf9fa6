"""The command `esam-rt`: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import logging
import shlex
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from esam_rt import console
from esam_rt.cli_engines import build_engine, engines_app
from esam_rt.cli_eval import evaluate

if TYPE_CHECKING:
    from esam_rt.run.run_options import RunSummary

TABLE_5 = {  # rows of E-SAM's Table 5, and the two stages that it counts within others
    "encoder": "encoder",
    "decoder": "decoder",
    "mmg": "MMG",
    "emr": "EMR",
    "usr": "USR",
    "superpixels": "superpixels",
    "upsampling": "upsampling",
    "total": "total",  # of the photo: superpixels run beside the decoder
}

app = typer.Typer(
    name="esam-rt",
    help="Segment every entity in a photo: E-SAM without training and without PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("build-engine")(build_engine)
app.command("eval")(evaluate)
app.add_typer(engines_app, name="engines")


def _version(wanted: bool) -> None:
    if wanted:
        from esam_rt._version import __version__

        typer.echo(f"esam-rt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Root of the commands."""
    log = logging.getLogger("esam_rt")
    log.handlers = [console.WarningLines()]


@app.command()
def run(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Photos and folders of photos.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the results.")] = "esam-rt-out",
    model: console.Model = "tiny",
    checkpoint: console.Checkpoint = None,
    method: console.Method = "e-sam",
    preset: console.Preset = "paper",
    config: console.Config = None,
    changes: console.Changes = None,
    write: Annotated[str, typer.Option(help="What to write, separated by commas.")] = "labels,coco,overlay,report",
    backend: console.Backend = "onnxruntime",
    device: console.Device = None,
    precision: console.Precision = None,
    engines: console.Engines = None,
    no_build: console.NoBuild = False,
    threads: console.Threads = None,
    memory: console.Memory = None,
    cuda_graphs: console.CudaGraphs = False,
    limit: console.Limit = None,
    max_megapixels: console.MaxMegapixels = 200.0,
    resume: console.Resume = False,
    overwrite: console.Overwrite = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also write profile.json, which ui.perfetto.dev shows: what ran when.")
    ] = False,
    quiet: console.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment photos; write label maps, COCO annotations, overlays and a report."""
    with console.exit_codes():
        from esam_rt.kernels import warmup
        from esam_rt.run.folder_run import run_photos
        from esam_rt.run.run_options import RunOptions, Segmenter, open_segmenter

        options = RunOptions(
            sources=tuple(console.path("SOURCE", source) for source in sources),
            out=console.path("--out", out),
            model=model,
            checkpoint=checkpoint,
            method=method,
            settings=console.settings_of(preset, config, changes),
            write=tuple(name.strip() for name in write.split(",") if name.strip()),
            backend=backend,
            device=device,
            precision=precision,
            engines=engines,
            build=not no_build,
            threads=threads,
            memory_mb=memory,
            cuda_graphs=cuda_graphs,
            limit=limit,
            max_pixels=console.pixels(max_megapixels),
            resume=resume,
            overwrite=overwrite,
            profile=profile,
        )
        shown = console.stderr.is_terminal and not quiet and not as_json

        def open_and_show(options: RunOptions) -> Segmenter:
            kernels = warmup.OF_METHOD.get(method, ())  # of an unknown method the segmenter tells
            warmup.begin(kernels, with_process=True)
            with console.Steps(shown) as steps:
                return open_segmenter(options, steps.listener())

        with console.PhotoBar(shown) as bar:
            summary = run_photos(options, bar, open_and_show)
        if summary.error:
            console.print_error(summary.error)
        if as_json:
            typer.echo(json.dumps(summary.to_json()))
        elif not quiet:
            _print_summary(summary)
        raise typer.Exit(summary.exit_code)


@app.command()
def export(
    model: console.ModelName,
    checkpoint: console.Checkpoint = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    attention: Annotated[
        str | None, typer.Option(help="Of a ViT: concat, bias or fused (opset 23). Default: the fastest on a CPU.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for the files. Default: the cache, where run looks.")
    ] = None,
    quiet: console.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files as JSON.")] = False,
) -> None:
    """Turn a checkpoint into ONNX files, without PyTorch: encoder, decoder, masks and logits."""
    with console.exit_codes():
        from esam_rt.export import AttentionForm, Precision
        from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
        from esam_rt.loading.checkpoints import checkpoint_of
        from esam_rt.loading.onnx_cache import export_to, onnx_model
        from esam_rt.sam.models import get_model

        row = get_model(model)
        folder = None if out is None else console.path("--out", out)
        console.check_choice("--precision", precision, Precision)
        if attention is not None:
            console.check_choice("--attention", attention, AttentionForm)
        start = time.perf_counter()
        with console.Steps(shown=console.stderr.is_terminal and not quiet and not as_json) as steps:
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
            console.stdout.print(f"{file} ({kind})", soft_wrap=True, highlight=False, markup=False)
            for f in files:
                console.stdout.print(
                    f"{f.stat().st_size / 1e6:9.1f} MB  {f}", soft_wrap=True, highlight=False, markup=False
                )
            console.stdout.print(f"{len(files)} files in {time.perf_counter() - start:.1f} s.", highlight=False)
            if folder is None and attention in (None, row.attention):
                given = f" --checkpoint {shlex.quote(str(checkpoint))}" if checkpoint else ""
                given += f" --precision {precision}" if precision != "fp32" else ""
                line = f"Use it: esam-rt run PHOTOS --model {model}{given}"
                console.stdout.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command("compile-kernels")
def compile_kernels(
    quiet: console.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was compiled as JSON.")] = False,
) -> None:
    """Compile the Numba kernels into the cache, for this CPU, so that no later command has to."""
    with console.exit_codes():
        from esam_rt.kernels.warmup import compile_all

        with console.Steps(shown=console.stderr.is_terminal and not quiet and not as_json) as steps:
            steps.begin("compiling the kernels")
            result = compile_all()
        if as_json:
            typer.echo(json.dumps(result.to_json()))
        elif not quiet:
            line = f"{result.kernels} kernels in {result.folder}, {result.compiled} of them compiled now, in "
            line += f"{result.seconds:.1f} s."
            console.stdout.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
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
            {key: getattr(m, key) for key in ("name", "description", "licence", "input_px")}
            | {"checkpoint_bytes": size, "checkpoint": here}
            | {"url": m.remote.url if m.remote else None, "exported": exported(m)}
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("model", "input", "checkpoint", "here", "exported", "description", "licence", box=None)
    for row in rows:
        megabytes = f"{row['checkpoint_bytes'] / 1e6:,.0f} MB"
        here, made = row["checkpoint"] or "-", " ".join(row["exported"]) or "-"
        table.add_row(row["name"], f"{row['input_px']} px", megabytes, here, made, row["description"], row["licence"])
    console.stdout.print(table)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, providers and caches, what is missing and the command that brings it."""
    from esam_rt.loading.doctor import State, diagnose

    colours = {State.OK: "green", State.ABSENT: "yellow", State.BAD: "red"}
    diagnosis = diagnose()
    if as_json:
        typer.echo(json.dumps(diagnosis.to_json()))
    else:
        table = Table("", "state", "found", box=None)
        table.columns[2].overflow = "fold"
        for f in diagnosis.findings:
            table.add_row(f.name, f"[{colours[f.state]}]{f.state}[/]", escape(f.found))
        console.stdout.print(table)
        for f in diagnosis.findings:  # below the table, so that a command stays on one line and can be copied
            if f.remedy:
                verb = "to add" if f.state is State.ABSENT else "to mend"
                console.stdout.print(f"{verb} {f.name}: {f.remedy}", soft_wrap=True, highlight=False, markup=False)
        able = ", ".join(diagnosis.backends)
        console.stdout.print(
            f"esam-rt can run on: {able}" if able else "esam-rt cannot run here yet; see the lines marked bad."
        )
    raise typer.Exit(diagnosis.exit_code)


def _print_summary(summary: RunSummary) -> None:
    """Mean times in the rows of Table 5, what was done and where to look."""
    times = summary.mean_times_s
    if times:
        table = Table("stage", "mean s a photo", box=None)
        table.columns[1].justify = "right"
        for key, title in TABLE_5.items():
            if key in times:
                table.add_row(title, f"{times[key]:.3f}")
        console.stdout.print(table)
    console.stdout.print(_sentence(summary), soft_wrap=True, highlight=False, markup=False)


def _sentence(summary: RunSummary) -> str:
    photos = "photo" if summary.done == 1 else "photos"
    parts = [f"{summary.done} {photos} segmented, {summary.entities} entities"]
    if summary.done_before:
        parts.append(f"{summary.done_before} done before")
    if summary.failed:
        parts.append(f"{summary.failed} failed, see {summary.out / 'errors.jsonl'}")
    if summary.left:
        parts.append(f"{summary.left} left: run again with --resume")
    return f"{', '.join(parts)}. Look at {summary.look_at.resolve()}"
