"""Graph files: written with their weights beside them, and checked before anything reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.weights import LazyArray
from esam_rt.export.graphs import graph_writer
from esam_rt.export.graphs.graph import Graph, Precision
from esam_rt.export.graphs.graph_writer import write_graph
from esam_rt.storage.onnx_files import check_graph_file

SIDE = 64
WEIGHT = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)


def graph(precision: Precision = Precision.FP32, reads: list[str] | None = None) -> Graph:
    """x · weight + small constant, its weight read late."""

    def read() -> np.ndarray:
        if reads is not None:
            reads.append("weight")
        return WEIGHT

    g = Graph("product", precision)
    x = g.narrow(g.input("x", np.float32, [1, SIDE]))
    y = g.op("Add", g.op("MatMul", x, LazyArray("weight", (SIDE, SIDE), read)), np.arange(4.0).repeat(16))
    g.output(g.widen(y), "y", np.float32, [1, SIDE])
    return g


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of these graphs count as large."""
    monkeypatch.setattr(graph_writer, "INLINE_BYTES", 1000)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_large_weights_stand_beside_the_graph(large: None, tmp_path: Path, precision: Precision) -> None:
    reads: list[str] = []
    path = tmp_path / "new" / "product.onnx"
    path.parent.mkdir()
    assert write_graph(graph(precision, reads), path, {"key": "value"}, "7") == [path, Path(f"{path}.data")]
    assert reads == ["weight"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["product.onnx", "product.onnx.data"]
    assert path.stat().st_size < 2000
    (tensor,) = check_graph_file(path)
    assert (tensor.name, tensor.file) == ("weight", Path(f"{path}.data"))
    assert tensor.length == WEIGHT.size * precision.dtype.itemsize
    x = np.random.default_rng(1).normal(size=(1, SIDE)).astype(np.float32)
    with OnnxRuntimeEngine(path) as engine:
        y = engine.infer({"x": x})["y"]
    np.testing.assert_allclose(y, x @ WEIGHT + np.arange(4).repeat(16), atol=1e-4 if precision == "fp32" else 0.1)
    before = [p.read_bytes() for p in (path, Path(f"{path}.data"))]
    write_graph(graph(precision), path, {"key": "value"}, "7")
    assert [p.read_bytes() for p in (path, Path(f"{path}.data"))] == before


def test_small_weights_stand_inside(tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    assert write_graph(graph(), path, {}, "7") == [path]
    assert check_graph_file(path) == []


def test_data_that_comes_back_changed(large: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = check_graph_file

    def damaged(path: Path) -> object:
        data = Path(f"{path}.data")
        content = bytearray(data.read_bytes())
        content[100] ^= 1
        data.write_bytes(content)
        return check(path)

    monkeypatch.setattr(graph_writer, "check_graph_file", damaged)
    with pytest.raises(ModelError, match=r"product\.onnx\.data: tensor weight came back changed"):
        write_graph(graph(), tmp_path / "product.onnx", {}, "7")


@pytest.mark.parametrize("value", [70_000.0, -1e30])
def test_weights_beyond_half_precision(tmp_path: Path, value: float) -> None:
    for weight in (
        np.full((SIDE, SIDE), value),
        LazyArray("weight", (SIDE, SIDE), lambda: np.full((SIDE, SIDE), value)),
    ):
        with pytest.raises(ModelError, match=r"Precision fp16: .* has values up to .*--precision bf16 or fp32"):
            g = Graph("product", Precision.FP16)
            x = g.narrow(g.input("x", np.float32, [1, SIDE]))
            g.output(g.widen(g.op("MatMul", x, weight)), "y", np.float32, [1, SIDE])
            write_graph(g, tmp_path / "product.onnx", {}, "7")


def located(path: Path, **entries: str) -> Path:
    """Change where the weight of a written graph lies."""
    model = onnx.load_model(path, load_external_data=False)
    (tensor,) = (t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    kept = {e.key: e.value for e in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def link(path: Path) -> Path:
    data = Path(f"{path}.data")
    data.rename(path.parent / "elsewhere")
    data.symlink_to(path.parent / "elsewhere")
    return path


def cut(path: Path) -> Path:
    os.truncate(f"{path}.data", 5000)
    return path


def in_a_node(path: Path) -> Path:
    """The tensor of a Constant node inside a branch of an If points outside."""
    tensor = TensorProto(name="secret", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=tensor)],
        "b",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [4])],
    )
    node = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", [condition], outputs)).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: located(p, location="../outside"), "found its data at '../outside', expected the name of a file"),
        (lambda p: located(p, location="/etc/passwd"), "found its data at '/etc/passwd'"),
        (lambda p: located(p, location=".."), r"found its data at '\.\.'"),
        (lambda p: located(p, location="a\\b"), "found its data at"),
        (lambda p: located(p, location="c:b"), "found its data at"),
        (lambda p: located(p, location=""), "found its data at ''"),
        (lambda p: located(p, location="missing"), "found no such file at .*missing"),
        (lambda p: located(p, offset="-1"), "found 16384 bytes in .*, expected at least"),
        (lambda p: located(p, length="-5"), "expected at least"),
        (lambda p: located(p, offset="1"), "found 16384 bytes in .*, expected at least 16385"),
        (lambda p: located(p, length="99999999999999999999"), "expected at least 99999999999999999999"),
        (lambda p: located(p, offset="many"), "no number"),
        (link, "found a link at"),
        (cut, "found 5000 bytes in .*, expected at least 16384"),
        (in_a_node, "tensor secret: found its data at '../secret'"),
    ],
)
def test_hostile_locations(large: None, tmp_path: Path, change: Callable[[Path], Path], message: str) -> None:
    path = tmp_path / "product.onnx"
    write_graph(graph(), path, {}, "7")
    with pytest.raises(ModelError, match=message) as e:
        check_graph_file(change(path))
    assert str(path) in str(e.value)


def test_an_engine_never_sees_what_is_refused(large: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "product.onnx"
    write_graph(graph(), path, {}, "7")

    def session(*_: object, **__: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ModelError, match="expected the name of a file beside the model"):
        OnnxRuntimeEngine(located(path, location="../x"))


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\x07", bytes(range(256)) * 9])
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx: expected a whole ONNX model"):
        check_graph_file(path)


def test_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_graph(graph(), path, {}, "7")
    content = path.read_bytes()
    for length in range(0, len(content), 997):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"model\.onnx"):
            OnnxRuntimeEngine(path)


def test_a_tensor_whose_name_is_not_utf8(large: None, tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    write_graph(graph(), path, {}, "7")
    for word in (b"product.onnx.data", b"location", b"weight"):
        whole = path.read_bytes()
        path.write_bytes(whole.replace(word, b"\xe5" + word[1:]))
        with pytest.raises(ModelError, match=r"product\.onnx: found the name b'.xe5.*expected UTF-8"):
            check_graph_file(path)
        path.write_bytes(whole)
