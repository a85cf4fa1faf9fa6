"""The command `export-triton`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from esam_rt.cli import option_types, output


@output.exit_codes()
def export_triton(
    model: option_types.ModelName,
    out: Annotated[str, typer.Option(metavar="DIR", help="The model repository. It may hold other models.")],
    checkpoint: option_types.Checkpoint = None,
    preset: option_types.Preset = "fast",
    config: option_types.Config = None,
    changes: option_types.Changes = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, or tensorrt for ONNX Runtime's TensorRT provider in the server.")
    ] = "cpu",
    precision: Annotated[str | None, typer.Option(help="fp32 or fp16. Default: fp32.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of one call. Default: all.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Images that the server segments at the same time.")] = 1,
    version: Annotated[int, typer.Option(min=1, help="Number of the version. The server runs the highest one.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write this version again if it exists.")] = False,
    quiet: option_types.Quiet = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the names of the models as JSON.")] = False,
) -> None:
    """Write a model repository for Triton: the networks, and a Python model that runs the whole of E-SAM."""
    from esam_rt.cli import progress
    from esam_rt.integrations.triton.model_repository import export_repository
    from esam_rt.loading.execution import DEVICES, PRECISIONS, ExecutionConfig
    from esam_rt.segmenter import SegmenterConfig

    option_types.check_choice("--device", device, DEVICES)
    if precision is not None:
        option_types.check_choice("--precision", precision, PRECISIONS)
    execution = ExecutionConfig(device=device, precision=precision, threads=threads)  # type: ignore[arg-type]
    settings = option_types.settings_of(preset, config, changes)
    segmenter = SegmenterConfig(model, checkpoint, settings=settings, execution=execution)
    folder = option_types.path("--out", out)
    with progress.Steps(output.shows_progress(quiet, as_json)) as steps:
        repository = export_repository(
            segmenter, folder, version=version, instances=instances, overwrite=overwrite, on_event=steps.on_event
        )
    if as_json:
        typer.echo(json.dumps(repository.to_json()))
    elif not quiet:
        output.print_line(f"{repository.path}: version {version} of {repository.name}, and of its networks:")
        for name in repository.graph_names:
            output.print_line(f"  {name}")
        output.print_line("The server's Python needs the package esam-rt. See docs/howto/triton.md.")
