"""Messages of GPU libraries: which ones report a lack of memory; and the dtypes that all of them support."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from esam_rt.engines.dtypes import ONNX_TYPES, ONNXRUNTIME_DTYPES, TENSORRT_DTYPES
from esam_rt.engines.library_errors import is_out_of_memory_message


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory",
        "Error Code 2: OutOfMemory (Requested size was 9 bytes.)",
        "the tensor could not be allocated",
        "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
        "bad allocation",
        "Available memory of 0 is smaller than requested bytes of 256",
    ],
)
def test_out_of_memory(message: str) -> None:
    assert is_out_of_memory_message(message)


@pytest.mark.parametrize("message", ["", "shape mismatch in node 3", "CUDA driver version is insufficient"])
def test_other_failures(message: str) -> None:
    assert not is_out_of_memory_message(message)


def test_the_tables_have_the_same_dtypes() -> None:
    assert list(TENSORRT_DTYPES.values()) == list(ONNXRUNTIME_DTYPES.values()) == list(ONNX_TYPES)
    for dtype, number in ONNX_TYPES.items():
        assert onnx.helper.tensor_dtype_to_np_dtype(number) == dtype
    assert np.dtype(np.float64) not in ONNX_TYPES
