"""The float types of weights and activations: one table for checkpoints and graphs."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


class FloatType(NamedTuple):
    """One float type and the names that formats give it.

    Attributes:
        dtype: The NumPy dtype.
        precision: Value of ``Precision``.
        safetensors: Word in a safetensors header.
        torch_storage: Name of PyTorch's storage class.
    """

    dtype: np.dtype[Any]
    precision: str
    safetensors: str
    torch_storage: str


FLOAT_TYPES = (
    FloatType(np.dtype(np.float16), "fp16", "F16", "HalfStorage"),
    FloatType(np.dtype(np.float32), "fp32", "F32", "FloatStorage"),
    FloatType(np.dtype(ml_dtypes.bfloat16), "bf16", "BF16", "BFloat16Storage"),
)
FLOAT_DTYPES = {t.dtype.name: t.dtype for t in FLOAT_TYPES}
"""The dtypes by NumPy's name: float16, float32, bfloat16."""
