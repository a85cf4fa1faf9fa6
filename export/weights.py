"""Weights: the named tensors of a checkpoint, checked where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from esam_rt.errors import ModelError

Array: TypeAlias = NDArray[np.float64]

DTYPES = {"F16": "float16", "F32": "float32"}


class Weights:
    """Tensors of one checkpoint. The shapes that an architecture expects stand where it takes them, nowhere else."""

    def __init__(self, source: Path, tensors: dict[str, NDArray[np.floating]]) -> None:
        self.source = source
        self._tensors = tensors
        self._taken: set[str] = set()

    def take(self, name: str, *shape: int) -> Array:
        """Tensor `name` as float64 (constants are folded at that precision); ModelError if missing or misshapen."""
        if name not in self._tensors:
            raise ModelError(f"{self.source}: tensor {name} is missing, expected shape {list(shape)}.")
        tensor = self._tensors[name]
        if tensor.shape != shape:
            raise ModelError(f"{self.source}: tensor {name}: found shape {list(tensor.shape)}, expected {list(shape)}.")
        self._taken.add(name)
        return tensor.astype(np.float64)

    def check_all_taken(self) -> None:
        """ModelError if the checkpoint holds tensors that the architecture does not have."""
        if extra := sorted(self._tensors.keys() - self._taken):
            more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
            raise ModelError(
                f"{self.source}: unexpected tensor {', '.join(extra[:3])}{more}; expected only the "
                f"{len(self._taken)} tensors of the model: is this the checkpoint of another model?"
            )


def read_safetensors(path: Path) -> Weights:
    """Read a safetensors file of float16 or float32 tensors; ModelError if it is missing, broken or of other dtypes."""
    if not path.is_file():
        raise ModelError(f"{path}: found no such file, expected a safetensors checkpoint.")
    tensors: dict[str, NDArray[np.floating]] = {}
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
    return Weights(path, tensors)
