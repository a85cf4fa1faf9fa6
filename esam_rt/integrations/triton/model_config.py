"""Texts of Triton's ``config.pbtxt``."""

from __future__ import annotations

import json
from collections.abc import Iterable

from esam_rt.engines import TensorSpec
from esam_rt.errors import ModelError
from esam_rt.integrations.triton.served_model import NetworkSpec

IMAGE = "image"
DEADLINE = "deadline_s"
OUTPUTS = {
    "labels": ("TYPE_UINT16", (-1, -1)),
    "score": ("TYPE_FP32", (-1,)),
    "box_xyxy": ("TYPE_INT32", (-1, 4)),
    "area": ("TYPE_INT64", (-1,)),
    "complete": ("TYPE_BOOL", (1,)),
    "rle": ("TYPE_STRING", (-1,)),
}
"""Outputs of the whole model: type and dimensions. ``rle`` is made only for requests that ask for it."""

_TYPES = {
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "bool": "TYPE_BOOL",
}


def graph_config(
    name: str, file: str, graph: NetworkSpec, device: str, instances: int, threads: int | None, warm_up: bool
) -> str:
    """Return the config of one network on Triton's ONNX Runtime backend.

    Batching is off: each request holds a batch of prompts of one image, and the parts of a batch belong together.

    Args:
        name: Name of the model.
        file: Name of the ONNX file.
        graph: Its tensors.
        device: ``cpu``, ``cuda``, or ``tensorrt`` for ONNX Runtime's TensorRT provider.
        instances: Copies that run at the same time, on each GPU or on the CPU.
        threads: CPU threads of one call. Default: all of the machine.
        warm_up: Run the network once with zeros before the model is ready.
    """
    kind = "KIND_CPU" if device == "cpu" else "KIND_GPU"
    parts = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {json.dumps(file)}",
        "max_batch_size: 0",
        *(_tensor("input", t.name, _type_of(t), [-1 if d is None else d for d in t.shape]) for t in graph.inputs),
        *(_tensor("output", t.name, _type_of(t), [-1 if d is None else d for d in t.shape]) for t in graph.outputs),
        f"instance_group [ {{ count: {instances} kind: {kind} }} ]",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if threads is not None and device == "cpu":
        parts.append(_parameter("intra_op_thread_count", str(threads)))
    if device == "tensorrt":
        accelerator = 'gpu_execution_accelerator [ { name: "tensorrt" } ]'
        parts.append(f"optimization {{ execution_accelerators {{ {accelerator} }} }}")
    if warm_up:
        parts.append(_warm_up(graph.inputs))
    return "\n".join(parts) + "\n"


def whole_config(name: str, instances: int) -> str:
    """Return the config of the Python model that runs the whole of E-SAM.

    Args:
        name: Name of the model.
        instances: Processes that answer requests at the same time.
    """
    parts = [
        f"name: {json.dumps(name)}",
        'backend: "python"',
        "max_batch_size: 0",
        _tensor("input", IMAGE, "TYPE_UINT8", (-1, -1, 3)),
        _tensor("input", DEADLINE, "TYPE_FP32", (1,), optional=True),
        *(_tensor("output", output, *of) for output, of in OUTPUTS.items()),
        f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]",
        "version_policy { latest { num_versions: 1 } }",
    ]
    return "\n".join(parts) + "\n"


def _type_of(tensor: TensorSpec) -> str:
    if tensor.dtype.name not in _TYPES:
        raise ModelError(
            f"{tensor.name}: found {tensor.dtype.name}, Triton's Python backend takes {', '.join(_TYPES)}. "
            "Use precision fp32 or fp16."
        )
    return _TYPES[tensor.dtype.name]


def _tensor(side: str, name: str, kind: str, dims: Iterable[int], optional: bool = False) -> str:
    numbers = ", ".join(map(str, dims))
    end = " optional: true" if optional else ""
    return f"{side} [ {{ name: {json.dumps(name)} data_type: {kind} dims: [ {numbers} ]{end} }} ]"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value)} }} }}"


def _warm_up(inputs: Iterable[TensorSpec]) -> str:
    """A first call with zeros. Each dynamic dimension is 2: ``cells`` needs an even number of columns."""
    zeros = " ".join(
        f"inputs {{ key: {json.dumps(t.name)} value: {{ data_type: {_type_of(t)} "
        f"dims: [ {', '.join('2' if d is None else str(d) for d in t.shape)} ] zero_data: true }} }}"
        for t in inputs
    )
    return f'model_warmup [ {{ name: "first call" {zeros} }} ]'
