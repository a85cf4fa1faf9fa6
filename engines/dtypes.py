"""The dtypes that engines support, with the name that each library gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx


@dataclass(frozen=True)
class DtypeNames:
    """One dtype and its names.

    Attributes:
        dtype: NumPy dtype.
        tensorrt: Member of TensorRT's ``DataType``.
        onnxruntime: Type of a session's input or output.
        onnx: Member of ONNX' ``TensorProto.DataType``.
    """

    dtype: np.dtype[Any]
    tensorrt: str
    onnxruntime: str
    onnx: int


_TABLE = (
    DtypeNames(np.dtype(np.float32), "FLOAT", "tensor(float)", onnx.TensorProto.FLOAT),
    DtypeNames(np.dtype(np.float16), "HALF", "tensor(float16)", onnx.TensorProto.FLOAT16),
    DtypeNames(np.dtype(ml_dtypes.bfloat16), "BF16", "tensor(bfloat16)", onnx.TensorProto.BFLOAT16),
    DtypeNames(np.dtype(np.uint8), "UINT8", "tensor(uint8)", onnx.TensorProto.UINT8),
    DtypeNames(np.dtype(np.int32), "INT32", "tensor(int32)", onnx.TensorProto.INT32),
    DtypeNames(np.dtype(np.int64), "INT64", "tensor(int64)", onnx.TensorProto.INT64),
    DtypeNames(np.dtype(np.bool_), "BOOL", "tensor(bool)", onnx.TensorProto.BOOL),
)

TENSORRT_DTYPES = {row.tensorrt: row.dtype for row in _TABLE}
"""NumPy dtypes by TensorRT's name."""

ONNXRUNTIME_DTYPES = {row.onnxruntime: row.dtype for row in _TABLE}
"""NumPy dtypes by ONNX Runtime's name."""

ONNX_TYPES = {row.dtype: int(row.onnx) for row in _TABLE}
"""ONNX' type numbers by NumPy dtype."""
