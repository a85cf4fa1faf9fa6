"""Graphs → ONNX files: large weights beside them, read one at a time; everything read back before it counts."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.external_data import convert_tensors_to_external

from esam_rt.errors import ModelError
from esam_rt.export.graphs.graph import Graph
from esam_rt.storage.onnx_files import check_graph_file

INLINE_BYTES = 256 << 20
"""Weights up to this stand in the .onnx itself; a protocol buffer cannot pass 2 GB, and is held whole in memory."""
SMALL_BYTES = 1 << 10  # constants that always stand in the .onnx


def write_graph(graph: Graph, path: Path, metadata: Mapping[str, str], version: str) -> list[Path]:
    """Write `path`, and `path`.data where the weights are large, then read them back; returns the files.

    The same graph gives the same bytes. OSError where they cannot be written, ModelError for data that came back
    changed.
    """
    data = path.with_name(f"{path.name}.data")
    model = graph.model(metadata, version)
    values = list(model.graph.initializers.values())
    written: dict[str, int] = {}
    if sum(_tensor(v).nbytes for v in values) > INLINE_BYTES:
        large = [v for v in values if _tensor(v).nbytes > SMALL_BYTES]
        recorded = [_recorded(_tensor(v), written) for v in large]
        stored = convert_tensors_to_external(recorded, path.parent, data.name)
        for value, tensor in zip(large, stored, strict=True):
            value.const_value = tensor
    else:
        for v in values:  # here, where an error of reading is not yet wrapped in one of writing
            v.const_value = ir.tensor(_tensor(v).numpy(), name=v.name)
    path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    for back in check_graph_file(path):
        if back.crc32() != written[back.name]:
            raise ModelError(
                f"{back.file.name}: tensor {back.name} came back changed; expected what was written. Is the disk "
                "failing? Export to another folder."
            )
    return [path, data] if written else [path]


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    """The data of an initializer."""
    if value.const_value is None:
        raise ValueError(f"{value.name} is no initializer")
    return value.const_value


def _recorded(tensor: ir.TensorProtocol, written: dict[str, int]) -> ir.TensorProtocol:
    """The tensor, leaving its checksum when it is read for writing, and nothing in memory afterwards."""
    name = str(tensor.name)

    def read() -> ir.TensorProtocol:
        array = np.ascontiguousarray(tensor.numpy())
        written[name] = zlib.crc32(array.tobytes())
        return ir.tensor(array, name=name)

    return ir.LazyTensor(read, dtype=tensor.dtype, shape=ir.Shape(tuple(tensor.shape.numpy())), name=name)
