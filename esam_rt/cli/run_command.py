"""The command `run`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from esam_rt.cli import option_types, output, progress

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


def run(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Photos and folders of photos.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the results.")] = "esam-rt-out",
    model: option_types.Model = "tiny",
    checkpoint: option_types.Checkpoint = None,
    method: option_types.Method = "e-sam",
    preset: option_types.Preset = "paper",
    config: option_types.Config = None,
    changes: option_types.Changes = None,
    write: Annotated[str, typer.Option(help="What to write, separated by commas.")] = "labels,coco,overlay,report",
    backend: option_types.Backend = "onnxruntime",
    device: option_types.Device = None,
    precision: option_types.Precision = None,
    engines: option_types.Engines = None,
    no_build: option_types.NoBuild = False,
    threads: option_types.Threads = None,
    memory: option_types.Memory = None,
    cuda_graphs: option_types.CudaGraphs = False,
    limit: option_types.Limit = None,
    max_megapixels: option_types.MaxMegapixels = 200.0,
    resume: option_types.Resume = False,
    overwrite: option_types.Overwrite = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also write profile.json, which ui.perfetto.dev shows: what ran when.")
    ] = False,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Segment photos; write label maps, COCO annotations, overlays and a report."""
    with output.exit_codes():
        from esam_rt.kernels import warmup
        from esam_rt.loading.execution import ExecutionConfig
        from esam_rt.run.folder_run import run_photos
        from esam_rt.run.run_options import RunOptions, Segmenter, open_segmenter
        from esam_rt.segmenter import SegmenterConfig

        options = RunOptions(
            sources=tuple(option_types.path("SOURCE", source) for source in sources),
            out=option_types.path("--out", out),
            segmenter=SegmenterConfig(
                model=model,
                checkpoint=checkpoint,
                method=method,
                settings=option_types.settings_of(preset, config, changes),
                execution=ExecutionConfig(
                    backend=backend,
                    device=device,
                    precision=precision,
                    threads=threads,
                    engines=engines,
                    build=not no_build,
                    memory_mb=memory,
                    cuda_graphs=cuda_graphs,
                ),
            ),
            write=tuple(name.strip() for name in write.split(",") if name.strip()),
            limit=limit,
            max_pixels=option_types.pixels(max_megapixels),
            resume=resume,
            overwrite=overwrite,
            profile=profile,
        )
        shown = output.stderr.is_terminal and not quiet and not as_json

        def open_and_show(options: RunOptions) -> Segmenter:
            kernels = warmup.METHOD_MODULES.get(method, ())  # of an unknown method the segmenter tells
            warmup.start_warmup(kernels, with_process=True)
            with progress.Steps(shown) as steps:
                return open_segmenter(options, steps.listener())

        with progress.PhotoBar(shown) as bar:
            summary = run_photos(options, bar, open_and_show)
        if summary.error:
            output.print_error(summary.error)
        if as_json:
            typer.echo(json.dumps(summary.to_json()))
        elif not quiet:
            _print_summary(summary)
        raise typer.Exit(summary.exit_code)


def _print_summary(summary: RunSummary) -> None:
    """Mean times in the rows of Table 5, what was done and where to look."""
    times = summary.mean_times_s
    if times:
        table = Table("stage", "mean s a photo", box=None)
        table.columns[1].justify = "right"
        for key, title in TABLE_5.items():
            if key in times:
                table.add_row(title, f"{times[key]:.3f}")
        output.stdout.print(table)
    output.stdout.print(_sentence(summary), soft_wrap=True, highlight=False, markup=False)


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
