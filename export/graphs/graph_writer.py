"""Write graphs as ONNX files. Large weights go to a data file one at a time and are read back."""

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
"""Largest sum of weights inside the .onnx file. A protocol buffer ends at 2 GB, and it is held in memory as a whole."""
SMALL_BYTES = 1 << 10  # constants up to this size are always inside the .onnx file


def write_graph(graph: Graph, path: Path, metadata: Mapping[str, str], version: str) -> list[Path]:
    """Write a graph and read it back. The same graph gives the same bytes.

    Args:
        graph: The finished graph.
        path: The .onnx file. Large weights go to a second file, ``<path>.data``.
        metadata: Metadata properties of the model.
        version: The producer's version.

    Returns:
        The files that were written.

    Raises:
        OSError: A file cannot be written.
        ModelError: Data read back differ from the data written.
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
        for v in values:  # read here: the serializer would wrap an error of reading in one of its own
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
    """Return the data of an initializer."""
    if value.const_value is None:
        raise ValueError(f"{value.name} is no initializer")
    return value.const_value


def _recorded(tensor: ir.TensorProtocol, written: dict[str, int]) -> ir.TensorProtocol:
    """Wrap a tensor: each read records its checksum in `written`, and the data are freed afterwards."""
    name = str(tensor.name)

    def read() -> ir.TensorProtocol:
        array = np.ascontiguousarray(tensor.numpy())
        written[name] = zlib.crc32(array.tobytes())
        return ir.tensor(array, name=name)

    return ir.LazyTensor(read, dtype=tensor.dtype, shape=ir.Shape(tuple(tensor.shape.numpy())), name=name)
