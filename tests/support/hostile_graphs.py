"""A subject of `trials`: ONNX graphs, changed, and loaded and run by `OnnxRuntimeEngine`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
from esam_rt.errors import EngineError, ModelError, OutOfMemoryError
from tests.support.mutations import NUMBERS, mutated
from tests.support.trials import Limits

LIMITS = Limits(cpu_s=10, growth_mb=1000, address_space_mb=6144)
LARGEST_INPUT = 1 << 20  # elements
INPUTS = ("", "x", "y", "shape", "missing", "ké\n\x1b[31m")
OPERATORS = ("Conv", "MatMul", "Reshape", "Softmax", "Resize", "Gather", "Concat", "Loop", "Einsum", "NoSuchOperator")


@cache
def corpus() -> tuple[bytes, ...]:
    """Graphs with the operators of SAM, with weights inside and beside them, and with a graph inside."""
    random = np.random.default_rng(0)
    weights = {
        "kernel": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "matrix": random.normal(size=(4, 4)).astype(np.float32),
        "shape": np.array([1, -1, 4], np.int64),
        "ones": np.ones(4, np.float32),
        "scales": np.array([1, 2, 1], np.float32),
        "index": np.array([0, 1], np.int64),
    }
    then = helper.make_graph(
        [helper.make_node("Identity", ["gathered"], ["then_out"])], "then", [], [_value("then_out", None)]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["gathered"], ["else_out"])], "else", [], [_value("else_out", None)]
    )
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["conv"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Reshape", ["conv", "shape"], ["tokens"]),
        helper.make_node("LayerNormalization", ["tokens", "ones"], ["normed"], axis=-1),
        helper.make_node("MatMul", ["normed", "matrix"], ["query"]),
        helper.make_node("Transpose", ["query"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["normed", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "normed"], ["mixed"]),
        helper.make_node("Resize", ["mixed", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Gather", ["large", "index"], ["gathered"], axis=1),
        helper.make_node("ReduceMax", ["gathered"], ["peak"], keepdims=0),
        helper.make_node("Cast", ["peak"], ["is_peak"], to=TensorProto.BOOL),
        helper.make_node("If", ["is_peak"], ["y"], then_branch=then, else_branch=other),
    ]
    found = []
    for beside in (False, True):
        tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        if beside:
            tensors[1].ClearField("raw_data")
            tensors[1].data_location = TensorProto.EXTERNAL
            for key, value in (("location", "graph.data"), ("offset", "0"), ("length", "64")):
                tensors[1].external_data.add(key=key, value=value)
        graph = helper.make_graph(nodes, "graph", [_value("x", [1, 3, 8, 8])], [_value("y", None)], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        found.append(model.SerializeToString())
    return tuple(found)


def _value(name: str, shape: list[int] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def prepare(folder: Path) -> None:
    (folder / "graph.data").write_bytes(np.eye(4, dtype=np.float32).tobytes())
    for data in corpus():
        (folder / "graph.onnx").write_bytes(data)
        assert _load(folder / "graph.onnx") == "ran"


def trial(random: Random, folder: Path) -> str:
    path = folder / "graph.onnx"
    path.write_bytes(_changed(random))
    return _load(path)


def _changed(random: Random) -> bytes:
    """Changed as a file, or as a graph that is still one."""
    if random.random() < 0.5:
        return mutated(random, corpus())
    model = onnx.ModelProto.FromString(random.choice(corpus()))
    for _ in range(random.randint(1, 3)):
        _change(random, model.graph)
    return model.SerializeToString()


def _change(random: Random, graph: onnx.GraphProto) -> None:
    if not graph.node:
        return
    node, tensor = random.choice(graph.node), random.choice(graph.initializer)
    kind = random.randrange(7)
    if kind == 0:
        node.op_type = random.choice(OPERATORS)
    elif kind == 1 and node.input:
        node.input[random.randrange(len(node.input))] = random.choice(INPUTS)
    elif kind == 2 and node.attribute:
        attribute = random.choice(node.attribute)
        attribute.i = random.choice(NUMBERS) * random.choice((1, -1))
        if attribute.ints:
            attribute.ints[random.randrange(len(attribute.ints))] = attribute.i
    elif kind == 3 and tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice((-1, 0, 1, 5, 1 << 20, 1 << 40))
    elif kind == 4:
        tensor.data_type = random.randrange(24)
    elif kind == 5:
        dimension = random.choice(graph.input[0].type.tensor_type.shape.dim)
        dimension.dim_value = random.choice((-1, 0, 1, 4, 1 << 12, 1 << 40))
    else:
        nodes = list(graph.node)
        random.shuffle(nodes)
        del graph.node[:]
        graph.node.extend(nodes[: random.randint(0, len(nodes))])


def _load(path: Path) -> str:
    try:
        engine = OnnxRuntimeEngine(path, threads=1)
    except (ModelError, EngineError, OutOfMemoryError) as e:
        _check_message(e)
        return "refused"
    with engine:
        shapes = [[n if n is not None else 1 for n in spec.shape] for spec in engine.inputs]
        if any(min(shape, default=1) < 0 or np.prod(shape, dtype=float) > LARGEST_INPUT for shape in shapes):
            return "loaded"
        feed = {s.name: np.zeros(shape, s.dtype) for s, shape in zip(engine.inputs, shapes, strict=True)}
        try:
            engine.infer(feed)
        except (EngineError, OutOfMemoryError) as e:
            _check_message(e)
            return "loaded"
    return "ran"


def _check_message(error: Exception) -> None:
    assert "graph.onnx" in str(error) and len(str(error)) < 3000, error
