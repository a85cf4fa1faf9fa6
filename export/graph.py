"""Graph: ONNX written node by node, NumPy arrays as constants. Opset 18, standard operators only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

OPSET = 18
IR_VERSION = 9  # the oldest that a reader of opset 18 understands without a warning

Operand: TypeAlias = ir.Value | NDArray[Any] | float | None


def ints(*values: int) -> NDArray[np.int64]:
    """int64 vector: a shape, axes, or starts and ends."""
    return np.array(values, np.int64)


class Graph:
    """One ONNX graph in the making."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tape = ir.tape.Tape()
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def input(self, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> ir.Value:
        """An input; a string in `shape` is the name of a free extent."""
        value = ir.val(name, ir.DataType.from_numpy(np.dtype(dtype)), shape)
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> None:
        """Make `value` an output."""
        value.name = name
        value.dtype = ir.DataType.from_numpy(np.dtype(dtype))
        value.shape = ir.Shape(shape)
        self._outputs.append(value)

    def op(self, op_type: str, *operands: Operand, **attributes: Any) -> ir.Value:
        """Append a node with one output. Arrays and numbers become constants, float32 or int64; None is left out."""
        return self._tape.op(op_type, self._values(operands), attributes)

    def ops(self, op_type: str, *operands: Operand, num_outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Append a node with several outputs."""
        return self._tape.op_multi_out(op_type, self._values(operands), attributes, num_outputs=num_outputs)

    def reshape(self, x: ir.Value, *shape: int | ir.Value) -> ir.Value:
        """Reshape; an extent may be known at run time only (int64 [1]); 0 copies the input's extent, -1 is inferred."""
        if all(isinstance(n, int) for n in shape):
            return self.op("Reshape", x, np.array(shape, np.int64))
        parts = [ints(n) if isinstance(n, int) else n for n in shape]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def cast(self, x: ir.Value, dtype: DTypeLike) -> ir.Value:
        """Cast to a NumPy dtype."""
        return self.op("Cast", x, to=ir.DataType.from_numpy(np.dtype(dtype)).value)

    def model(self, metadata: Mapping[str, str], producer_version: str) -> ir.Model:
        """The finished model."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports={"": OPSET},
            name=self.name,
        )
        return ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name="esam_rt",
            producer_version=producer_version,
            metadata_props=dict(metadata),
        )

    def _values(self, operands: Sequence[Operand]) -> list[ir.Value | None]:
        return [x if x is None or isinstance(x, ir.Value) else self._constant(np.asarray(x)) for x in operands]

    def _constant(self, array: NDArray[Any]) -> ir.Value:
        """An initializer; equal constants are stored once."""
        array = np.asarray(array, np.float32 if array.dtype.kind == "f" else np.int64, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"const_{len(self._constants)}"
            self._constants[key] = self._tape.initializer(ir.tensor(array, name=name))
        return self._constants[key]
