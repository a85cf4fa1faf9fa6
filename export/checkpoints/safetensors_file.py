"""Read safetensors files: the header now, each tensor when it is asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.lazy_tensor import HEADER_BYTES_MAX, FileRange, FileTensor, contiguous_strides
from esam_rt.export.float_types import FLOAT_DTYPES, FLOAT_TYPES

DTYPES = {t.safetensors: t.dtype.name for t in FLOAT_TYPES}
LENGTH_BYTES = 8  # the file starts with the length of its header


def read_safetensors(path: Path) -> dict[str, FileTensor]:
    """List the tensors of a safetensors file.

    Args:
        path: The file.

    Returns:
        The tensors by name.

    Raises:
        ModelError: The file is broken.
    """
    data_start, header = _header(path)
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, data_start, entry) for name, entry in header.items()}


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the data start and the header, after safetensors itself has found the file valid."""
    size = int.from_bytes(FileRange(path, 0, LENGTH_BYTES).read().tobytes(), "little")
    if size > HEADER_BYTES_MAX:
        raise _broken(path, f"a header of {size} bytes, more than {HEADER_BYTES_MAX}")
    # safe_open maps the file, and mapped pages that were read count as memory. It only checks the file here.
    try:
        with safe_open(path, framework="numpy"):
            pass
        header = json.loads(FileRange(path, LENGTH_BYTES, size).read().tobytes())
    except (SafetensorError, OSError, ValueError) as e:
        raise _broken(path, f"one that cannot be read ({e})") from e
    return LENGTH_BYTES + size, header


def _tensor(path: Path, name: str, data_start: int, entry: dict[str, Any]) -> FileTensor:
    shape, (first, end) = tuple(entry["shape"]), entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"], entry["dtype"])
    if dtype in FLOAT_DTYPES and math.prod(shape) * FLOAT_DTYPES[dtype].itemsize != end - first:
        raise _broken(path, f"{end - first} bytes for tensor {name} of shape {list(shape)}")
    return FileTensor(FileRange(path, data_start + first, end - first), dtype, shape, contiguous_strides(shape))


def _broken(path: Path, found: str) -> ModelError:
    return ModelError(f"{path}: found {found}, expected a whole safetensors file; download or copy it again.")
