"""Checks of ONNX files from elsewhere: their weights must lie beside them, and be whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from esam_rt.errors import ModelError

CHUNK = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor of an ONNX file whose bytes are in another file.

    Attributes:
        name: Name of the tensor.
        file: File with the bytes.
        offset: First byte.
        length: Number of bytes.
    """

    name: str
    file: Path
    offset: int
    length: int

    def crc32(self) -> int:
        """Return the CRC-32 of the bytes."""
        checksum, left = 0, self.length
        with self.file.open("rb") as f:
            f.seek(self.offset)
            while left and (part := f.read(min(CHUNK, left))):
                checksum = zlib.crc32(part, checksum)
                left -= len(part)
        return checksum


def check_graph_file(path: Path) -> list[ExternalTensor]:
    """Check an ONNX file, and list the tensors that it keeps in other files.

    Each of these tensors must lie in a plain file beside the model, named without a path, and inside that file's
    length: a model from elsewhere must not make a runtime read other files. Tensors inside the file are not checked.

    Args:
        path: The ONNX file.

    Returns:
        The tensors in other files.

    Raises:
        ModelError: If the file is no whole ONNX model, or a tensor lies elsewhere.
    """
    if not path.is_file():
        raise ModelError(f"{path}: found no such file, expected an exported ONNX model. Check the path.")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as e:
        reason = " ".join(str(e).split())
        raise ModelError(
            f"{path}: expected a whole ONNX model, found a file that cannot be read as one ({reason}). Export it again."
        ) from e
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{path}: expected a whole ONNX model, found one without a graph. Export it again.")
    return [
        _located(path, tensor)
        for tensor in _tensors_of_model(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]


def checked_text(path: Path, text: str | bytes) -> str:
    """Check a text of an ONNX file. Protobuf returns the bytes of a text that is no UTF-8.

    Args:
        path: The ONNX file, for the message.
        text: What protobuf returned.

    Returns:
        The text.

    Raises:
        ModelError: The text is no UTF-8.
    """
    if isinstance(text, str):
        return text
    raise ModelError(f"{path}: found the name {text!r:.80}, expected UTF-8; the file is damaged. Export it again.")


def _located(path: Path, tensor: onnx.TensorProto) -> ExternalTensor:
    """Find the bytes of a tensor, and check the place."""
    entries = {checked_text(path, entry.key): checked_text(path, entry.value) for entry in tensor.external_data}
    location, name = entries.get("location", ""), checked_text(path, tensor.name)
    where = f"{path}: tensor {name:.80}"
    if not location or location in (".", "..") or any(mark in location for mark in "/\\:\0"):
        raise ModelError(
            f"{where}: found its data at {location!r:.80}, expected the name of a file beside the model. "
            "Do not use this file; export the model again."
        )
    file = path.parent / location
    if file.is_symlink() or not file.is_file():
        found = "a link" if file.is_symlink() else "no such file"
        raise ModelError(f"{where}: found {found} at {file}, expected a plain file with its data. Export it again.")
    size = file.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
    except ValueError as e:
        raise ModelError(f"{where}: found an offset or length that is no number ({e}). Export it again.") from e
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{where}: found {size} bytes in {file}, expected at least {offset + length}; the file is cut off or "
            "belongs to another model. Export it again."
        )
    return ExternalTensor(name, file, offset, length)


def _tensors_of_model(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model, also those of nodes, sub-graphs and functions."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)
        for attribute in function.attribute_proto:
            yield from _tensors_of_attribute(attribute)
    for training in model.training_info:
        yield from _tensors_of_graph(training.initialization)
        yield from _tensors_of_graph(training.algorithm)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from _tensors_of_attribute(attribute)


def _tensors_of_attribute(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for sparse in (
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        *attribute.sparse_tensors,
    ):
        yield from (sparse.values, sparse.indices)
    for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        yield from _tensors_of_graph(graph)
