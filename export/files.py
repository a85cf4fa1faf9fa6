"""Graphs → ONNX files: large weights beside them, read one at a time; everything read back before it counts."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
from onnx_ir.external_data import convert_tensors_to_external

from esam_rt.errors import EsamError, ModelError
from esam_rt.files import output_error, write_bytes
from esam_rt.graph_files import check_graph_file

from .graph import Graph

INLINE_BYTES = 256 << 20
"""Weights up to this stand in the .onnx itself; a protocol buffer cannot pass 2 GB, and is held whole in memory."""
SMALL_BYTES = 1 << 10  # constants that always stand in the .onnx


def write_graph(graph: Graph, path: Path, metadata: Mapping[str, str], version: str) -> list[Path]:
    """Write `path`, and `path`.data where the weights are large; they get their names when they are whole and checked.

    The same graph gives the same bytes. Returns the files. OutputError where they cannot be written, ModelError for
    data that came back changed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".esam-rt-") as folder:
            names = _write(graph.model(metadata, version), Path(folder) / path.name)
            # Without the data of an earlier export its graph is refused, should this one be interrupted here.
            _data_of(path).unlink(missing_ok=True)
            for name in reversed(names):
                (Path(folder) / name).replace(path.parent / name)
    except OSError as e:
        raise e if isinstance(e, EsamError) else output_error(path, e) from e
    return [path.parent / name for name in names]


def _write(model: ir.Model, path: Path) -> list[str]:
    """Write a model, read it back and check it; names of the files, the graph's first."""
    data = _data_of(path)
    values = list(model.graph.initializers.values())
    written: dict[str, int] = {}
    if sum(_tensor(v).nbytes for v in values) > INLINE_BYTES:
        large = [v for v in values if _tensor(v).nbytes > SMALL_BYTES]
        recorded = [_recorded(_tensor(v), written) for v in large]
        stored = convert_tensors_to_external(recorded, path.parent, data.name)
        for value, tensor in zip(large, stored, strict=True):
            value.const_value = tensor
        _sync(data)
    write_bytes(path, ir.to_proto(model).SerializeToString(deterministic=True))
    for back in check_graph_file(path):
        if back.crc32() != written[back.name]:
            raise ModelError(
                f"{back.file.name}: tensor {back.name} came back changed; expected what was written. Is the disk "
                "failing? Export to another folder."
            )
    return [path.name, data.name] if written else [path.name]


def _data_of(path: Path) -> Path:
    """Where the large weights of a graph are."""
    return path.with_name(f"{path.name}.data")


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


def _sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
