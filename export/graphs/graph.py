"""Graph: an ONNX graph written node by node, with NumPy arrays as constants and standard operators only.

The precision is part of the graph's types, because TensorRT networks are strongly typed. Activations and constants have
the type of the precision. Norms and softmax are float32 between casts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.weights import LazyArray
from esam_rt.export.float_types import FLOAT_TYPES

OPSET = 18
NEW_OPSET = 23  # the first with the operator Attention; 22 was the first with convolutions of bfloat16
IR_VERSIONS = {OPSET: 9, NEW_OPSET: 11}  # the oldest version that readers of the opset accept without a warning

Operand: TypeAlias = ir.Value | NDArray[Any] | LazyArray | float | None
"""A value of the graph, a constant, or None for an optional input that is left out."""


class Precision(StrEnum):
    """Type of weights and activations. Norms and softmax are float32 in every precision."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype."""
        return next(t.dtype for t in FLOAT_TYPES if t.precision == self)


def ints(*values: int) -> NDArray[np.int64]:
    """Return an int64 vector: a shape, axes, or starts and ends."""
    return np.array(values, np.int64)


class Graph:
    """One ONNX graph under construction.

    Args:
        name: Name of the graph and of its file.
        precision: Type of activations and float constants.
        opset: ``OPSET`` or ``NEW_OPSET``. Default: the oldest that supports the precision.
    """

    def __init__(self, name: str, precision: Precision = Precision.FP32, opset: int | None = None) -> None:
        self.name, self.precision = name, precision
        self.opset = opset or (NEW_OPSET if precision is Precision.BF16 else OPSET)
        self._float_type = precision.dtype
        self._tape = ir.tape.Tape()
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._kept: dict[str, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def input(self, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> ir.Value:
        """Add an input.

        Args:
            name: Name of the input.
            dtype: NumPy dtype of the input.
            shape: Shape of the input. A string names a dynamic dimension.

        Returns:
            The input's value.
        """
        value = ir.val(name, ir.DataType.from_numpy(np.dtype(dtype)), shape)
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> None:
        """Make a value an output.

        Args:
            value: The value.
            name: The output's name.
            dtype: The value's NumPy dtype.
            shape: The value's shape. A string names a dynamic dimension.
        """
        value.name = name
        value.dtype = ir.DataType.from_numpy(np.dtype(dtype))
        value.shape = ir.Shape(shape)
        self._outputs.append(value)

    def named_output(self, name: str) -> ir.Value:
        """Return the output of a name, to build on. KeyError if it is missing."""
        return {value.name: value for value in self._outputs}[name]

    def keep(self, value: ir.Value, name: str) -> None:
        """Remember `value`, which need not be an output, by a name."""
        self._kept[name] = value

    def kept(self, name: str) -> ir.Value:
        """The value that was kept by this name; KeyError if there is none."""
        return self._kept[name]

    def op(self, op_type: str, *operands: Operand, **attributes: Any) -> ir.Value:
        """Append a node with one output.

        Args:
            op_type: An ONNX operator.
            *operands: Inputs of the node. Arrays and numbers become constants: floats in the graph's precision,
                others int64.
            **attributes: Attributes of the node.

        Returns:
            The node's output.
        """
        return self._tape.op(op_type, self._values(operands), attributes)

    def ops(self, op_type: str, *operands: Operand, num_outputs: int, **attributes: Any) -> Sequence[ir.Value]:
        """Append a node with several outputs.

        Args:
            op_type: An ONNX operator.
            *operands: Inputs of the node, as in ``op``.
            num_outputs: How many outputs it has.
            **attributes: Attributes of the node.

        Returns:
            The node's outputs.
        """
        return self._tape.op_multi_out(op_type, self._values(operands), attributes, num_outputs=num_outputs)

    def reshape(self, x: ir.Value, *shape: int | ir.Value) -> ir.Value:
        """Reshape a value.

        Args:
            x: The value.
            *shape: The new dimensions. 0 copies the input's dimension, -1 is inferred, and a value int64 [1] is a
                dimension known only at run time.

        Returns:
            The reshaped value.
        """
        if all(isinstance(n, int) for n in shape):
            return self.op("Reshape", x, np.array(shape, np.int64))
        parts = [ints(n) if isinstance(n, int) else n for n in shape]
        return self.op("Reshape", x, self.op("Concat", *parts, axis=0))

    def cast(self, x: ir.Value, dtype: DTypeLike) -> ir.Value:
        """Cast to a NumPy dtype."""
        return self.op("Cast", x, to=ir.DataType.from_numpy(np.dtype(dtype)).value)

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Make constants float32 within the block. Use it for operands that were widened."""
        before, self._float_type = self._float_type, np.dtype(np.float32)
        yield
        self._float_type = before

    def widen(self, x: ir.Value) -> ir.Value:
        """Cast from the graph's precision to float32."""
        return x if self.precision is Precision.FP32 else self.cast(x, np.float32)

    def narrow(self, x: ir.Value) -> ir.Value:
        """Cast from float32 to the graph's precision."""
        return x if self.precision is Precision.FP32 else self.cast(x, self.precision.dtype)

    def layer_norm(self, x: ir.Value, scale: NDArray[Any], bias: NDArray[Any], epsilon: float) -> ir.Value:
        """Normalize over the last axis, in float32.

        Args:
            x: A value [..., C] in the graph's precision.
            scale: Scale [C].
            bias: Bias [C].
            epsilon: Added to the variance.

        Returns:
            A value [..., C] in the graph's precision.
        """
        with self.in_float32():
            x = self.op("LayerNormalization", self.widen(x), scale, bias, epsilon=epsilon, axis=-1)
        return self.narrow(x)

    def softmax(self, x: ir.Value) -> ir.Value:
        """Apply softmax over the last axis, in float32."""
        return self.narrow(self.op("Softmax", self.widen(x), axis=-1))

    def gelu(self, x: ir.Value) -> ir.Value:
        """Compute x/2 · (1 + erf(x/√2)) in the form that ONNX Runtime fuses. The operator Gelu needs opset 20."""
        erf = self.op("Erf", self.op("Div", x, math.sqrt(2)))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, 1.0)), 0.5)

    def model(self, metadata: Mapping[str, str], producer_version: str) -> ir.Model:
        """Return the finished model.

        Args:
            metadata: Metadata properties.
            producer_version: The producer's version.

        Returns:
            The model. Lazy weights are not read yet.
        """
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports={"": self.opset},
            name=self.name,
        )
        return ir.Model(
            graph,
            ir_version=IR_VERSIONS[self.opset],
            producer_name="esam_rt",
            producer_version=producer_version,
            metadata_props=dict(metadata),
        )

    def _values(self, operands: Sequence[Operand]) -> list[ir.Value | None]:
        return [x if x is None or isinstance(x, ir.Value) else self._constant(x) for x in operands]

    def _constant(self, x: NDArray[Any] | LazyArray | float) -> ir.Value:
        """Return an initializer. Equal arrays are stored once."""
        if isinstance(x, LazyArray):
            return self._lazy_constant(x)
        array = np.asarray(x)
        is_float = array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16
        array = (
            _as_type(array, self._float_type, "a folded weight") if is_float else np.asarray(array, np.int64, order="C")
        )
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"const_{len(self._constants)}"
            self._constants[key] = self._tape.initializer(ir.tensor(array, name=name))
        return self._constants[key]

    def _lazy_constant(self, x: LazyArray) -> ir.Value:
        """Return an initializer that is read when the file is written."""
        dtype = self._float_type
        key = (dtype.str, x.shape, x.name.encode())
        if key not in self._constants:
            tensor = ir.LazyTensor(
                lambda: ir.tensor(_as_type(x.read(), dtype, x.name)),
                dtype=ir.DataType.from_numpy(dtype),
                shape=ir.Shape(x.shape),
                name=x.name,
            )
            self._constants[key] = self._tape.initializer(tensor)
        return self._constants[key]


def _as_type(array: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Convert to a float type, in C order. ModelError if a finite number is too large for float16."""
    with np.errstate(over="ignore"):
        result = np.asarray(array, dtype, order="C")
    if dtype == np.float16 and np.isinf(result).sum() > np.isinf(array).sum():
        largest = float(np.abs(array[np.isfinite(array)]).max())
        raise ModelError(
            f"Precision fp16: {name} has values up to {largest:.3g}, expected at most {np.finfo(dtype).max:.0f}; use "
            "--precision bf16 or fp32."
        )
    return result
