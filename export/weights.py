"""Weights: the named tensors of a checkpoint, read and checked where they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import ModelError

from .names import OURS, Naming

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. read: a fresh array of float16, bfloat16 or float32; nothing of the file stays mapped."""

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class LaterArray:
    """A constant of a graph that is read only when the graph is written, so that large weights are never all in memory.

    name: unique within a checkpoint. shape: what `read` returns.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


OTHER_MODEL = "is this the checkpoint of another model?"


class Weights:
    """Tensors of one checkpoint, asked for by our names (`names.py`).

    The shapes that an architecture expects stand where it takes them, nowhere else.
    """

    def __init__(self, source: Path, tensors: Mapping[str, StoredTensor], naming: Naming = OURS) -> None:
        self.source = source
        self._tensors, self._naming = tensors, naming
        self._taken: set[str] = set()

    @classmethod
    def of_arrays(cls, source: Path, arrays: Mapping[str, NDArray[Any]], naming: Naming = OURS) -> Self:
        """Of arrays in memory."""
        return cls(source, {name: StoredTensor(a.shape, a.copy) for name, a in arrays.items()}, naming)

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of this name."""
        return self._naming.of_file(name) in self._tensors

    def take(self, name: str, *shape: int) -> Array:
        """Tensor `name` as float64 (constants are folded at that precision); ModelError if missing or misshapen."""
        return self._find(name, shape).read().astype(np.float64).reshape(shape)

    def later(self, name: str, *shape: int, transposed: bool = False) -> LaterArray:
        """As `take`, but read when the graph is written, and in the file's own precision."""
        tensor = self._find(name, shape)
        if transposed:
            return LaterArray(f"{name}.T", shape[::-1], lambda: tensor.read().reshape(shape).T)
        return LaterArray(name, shape, lambda: tensor.read().reshape(shape))

    def check_all_taken(self) -> None:
        """ModelError if the checkpoint holds tensors that the architecture does not have."""
        left = self._tensors.keys() - self._taken
        if extra := sorted(name for name in left if not self._naming.is_ignored(name)):
            more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
            raise ModelError(
                f"{self.source}: unexpected tensor {', '.join(extra[:3])}{more}; expected only the "
                f"{len(self._taken)} tensors of the model; {OTHER_MODEL}"
            )

    def _find(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """The tensor that the file has under its own name for ours; leading extents of one do not count."""
        theirs = self._naming.of_file(name)
        if theirs not in self._tensors:
            raise ModelError(f"{self.source}: tensor {theirs} is missing, expected shape {list(shape)}; {OTHER_MODEL}")
        tensor = self._tensors[theirs]
        if _significant(tensor.shape) != _significant(shape):
            found, expected = list(tensor.shape), list(shape)
            raise ModelError(f"{self.source}: tensor {theirs}: found shape {found}, expected {expected}; {OTHER_MODEL}")
        self._taken.add(theirs)

        def read() -> NDArray[Any]:
            array = tensor.read()
            if not np.isfinite(array).all():
                raise ModelError(
                    f"{self.source}: tensor {theirs}: found NaN or infinite values, expected numbers; the training "
                    "went wrong or the file is damaged."
                )
            return array

        return StoredTensor(tensor.shape, read)


def _significant(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without leading extents of one: an embedding table of one row is a vector."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
