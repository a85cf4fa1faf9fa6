"""Command-line options of execution and of the segmenter, each declared once.

A command that takes ``segmenter: SegmenterConfig`` gets its options from the tables below. A new execution option is
one field of ``ExecutionConfig`` and one line of ``EXECUTION``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esam_rt.cli import option_types
from esam_rt.loading.execution import ExecutionConfig

if TYPE_CHECKING:
    from esam_rt.segmenter import SegmenterConfig

# Each thread costs memory, and the libraries start as many as they are told to: 100,000 end the process.
MAX_THREADS = max(64, 4 * (os.cpu_count() or 1))

EXECUTION: dict[str, Any] = {
    "backend": Annotated[str, typer.Option(help="onnxruntime, tensorrt or tensorrt-rtx.")],
    "device": Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda (also tensorrt with the onnxruntime backend). Default: cpu for onnxruntime, else cuda."
        ),
    ],
    "gpu": Annotated[int, typer.Option(min=0, help="Index of the GPU.")],
    "precision": Annotated[
        str | None, typer.Option(help="fp32, fp16 or bf16. Default: fp32 for onnxruntime, fp16 for TensorRT.")
    ],
    "engines": Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of engines from build-engine --out.")],
    "build": Annotated[bool, typer.Option("--build/--no-build", help="Build missing engines, or fail.")],
    "threads": Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads. Default: one for each usable CPU.")
    ],
    "memory_mb": Annotated[
        int | None,
        typer.Option("--memory", min=1, metavar="MB", help="Memory limit of the engines. Prompt batches get smaller."),
    ],
    "cuda_graphs": Annotated[
        bool, typer.Option("--cuda-graphs", help="Run full prompt batches as CUDA graphs. Only for device cuda.")
    ],
}
"""Option of each field of ``ExecutionConfig``. A stream has none: it belongs to a program."""

SEGMENTER: dict[str, tuple[Any, Any]] = {
    "model": (Annotated[str, typer.Option(help="Name of a model. `esam-rt models` lists them.")], "tiny"),
    "checkpoint": (option_types.Checkpoint, None),
    "method": (Annotated[str, typer.Option(help="e-sam, or a baseline: amg, sam-o, superpixels.")], "e-sam"),
    "preset": (option_types.Preset, "paper"),
    "config": (option_types.Config, None),
    "changes": (option_types.Changes, None),
}
"""Options of ``SegmenterConfig`` with their defaults; those of ``EXECUTION`` join them."""

_DEFAULTS = {field.name: field.default for field in fields(ExecutionConfig)}


def takes_segmenter(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of ``SEGMENTER`` and ``EXECUTION`` in place of its parameter ``segmenter``.

    Args:
        command: A function with a parameter ``segmenter`` of type ``SegmenterConfig``.

    Returns:
        A function for ``typer``, which has the options as parameters.
    """
    execution = {name: (annotation, _DEFAULTS[name]) for name, annotation in EXECUTION.items()}
    options = SEGMENTER | execution
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "segmenter":
            for name, (annotation, default) in options.items():
                parameters.append(
                    inspect.Parameter(name, parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                )
        else:
            # Not typing.get_type_hints: the replaced parameter may name a class that only type checkers import.
            annotation = parameter.annotation
            if isinstance(annotation, str):
                annotation = eval(annotation, command.__globals__)
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=annotation))

    def expanded(**values: Any) -> Any:
        segmenter = _segmenter_config({name: values.pop(name) for name in options})
        return command(**values, segmenter=segmenter)

    expanded.__name__, expanded.__doc__ = command.__name__, command.__doc__
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {p.name: p.annotation for p in parameters}
    return expanded


def _segmenter_config(values: Mapping[str, Any]) -> SegmenterConfig:
    from esam_rt.segmenter import SegmenterConfig

    return SegmenterConfig(
        model=values["model"],
        checkpoint=values["checkpoint"],
        method=values["method"],
        settings=option_types.settings_of(values["preset"], values["config"], values["changes"]),
        execution=ExecutionConfig(**{name: values[name] for name in EXECUTION}),
    )
