"""Checkpoint files → Weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from esam_rt.errors import ModelError

from .weights import Weights

DTYPES = {"F16": "float16", "F32": "float32"}


def read_checkpoint(path: Path) -> Weights:
    """Read a safetensors file of float16 or float32 tensors; ModelError if it is missing, broken or of other dtypes."""
    if not path.is_file():
        raise ModelError(f"{path}: found no such file, expected a safetensors checkpoint.")
    tensors: dict[str, NDArray[Any]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                found = file.get_slice(name).get_dtype()
                if found not in DTYPES:
                    expected = " or ".join(DTYPES.values())
                    raise ModelError(f"{path}: tensor {name}: found dtype {found}, expected {expected}.")
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as e:
        raise ModelError(f"{path}: expected a whole safetensors file, found one that cannot be read ({e}).") from e
    return Weights.of_arrays(path, tensors)
