"""Weights: the named tensors of a checkpoint, read and checked where a graph takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import ModelError
from esam_rt.export.checkpoints.key_mapping import OURS, Naming

Array: TypeAlias = NDArray[np.float64]
OTHER_MODEL = "is this the checkpoint of another model?"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is not in memory.

    Attributes:
        shape: The shape of the tensor.
        read: Returns a new array, float16, bfloat16 or float32. No part of the file stays mapped.
    """

    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


@dataclass(frozen=True)
class LazyArray:
    """A constant that is read when its graph is written. Large weights are never in memory all at once.

    Attributes:
        name: A name that is unique within the checkpoint.
        shape: The shape of the array.
        read: Returns the array.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]


class Weights:
    """The tensors of one checkpoint, taken by the exporter's names.

    An architecture states the shape of a tensor where it takes it. No other place lists shapes.

    Args:
        source: The checkpoint, for error messages.
        tensors: The tensors by their names in the file.
        naming: Maps the exporter's names to names in the file.
    """

    def __init__(self, source: Path, tensors: Mapping[str, StoredTensor], naming: Naming = OURS) -> None:
        self.source = source
        self._tensors, self._naming = tensors, naming
        self._taken: dict[str, StoredTensor] = {}

    @classmethod
    def of_arrays(cls, source: Path, arrays: Mapping[str, NDArray[Any]], naming: Naming = OURS) -> Self:
        """Make weights from arrays in memory, to pass to ``build_graphs``.

        Args:
            source: A name for error messages.
            arrays: The arrays by their names in a checkpoint.
            naming: Maps the exporter's names to these names.

        Returns:
            The weights.
        """
        return cls(source, {name: StoredTensor(a.shape, a.copy) for name, a in arrays.items()}, naming)

    @property
    def taken(self) -> Mapping[str, StoredTensor]:
        """The tensors taken so far, by the exporter's names and with the shapes that were asked for."""
        return self._taken

    def __contains__(self, name: str) -> bool:
        """Tell if the checkpoint has a tensor of this name."""
        return self._naming.of_file(name) in self._tensors

    def take(self, name: str, *shape: int) -> Array:
        """Read a tensor as float64, the precision in which constants are folded.

        Args:
            name: The exporter's name of the tensor.
            *shape: The expected shape. Leading dimensions of one do not count.

        Returns:
            The tensor in the expected shape.

        Raises:
            ModelError: The tensor is missing, has another shape, or holds NaN or infinite values.
        """
        return self._find(name, shape).read().astype(np.float64)

    def lazy(self, name: str, *shape: int, transposed: bool = False) -> LazyArray:
        """Return a tensor that is read when the graph is written, in the file's own precision.

        Args:
            name: The exporter's name of the tensor.
            *shape: The expected shape.
            transposed: Return the transpose.

        Returns:
            The constant.

        Raises:
            ModelError: The tensor is missing or has another shape. Reading raises it for NaN or infinite values.
        """
        tensor = self._find(name, shape)
        if transposed:
            return LazyArray(f"{name}.T", shape[::-1], lambda: tensor.read().T)
        return LazyArray(name, shape, tensor.read)

    def check_all_taken(self) -> None:
        """Raise ModelError if the checkpoint has tensors that no graph has taken."""
        used = {self._naming.of_file(name) for name in self._taken}
        if extra := sorted(name for name in self._tensors.keys() - used if not self._naming.is_ignored(name)):
            more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
            raise ModelError(
                f"{self.source}: unexpected tensor {', '.join(extra[:3])}{more}; expected only the "
                f"{len(used)} tensors of the model; {OTHER_MODEL}"
            )

    def _find(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """Return the file's tensor for one of our names, checked and in the expected shape."""
        in_file = self._naming.of_file(name)
        if in_file not in self._tensors:
            raise ModelError(f"{self.source}: tensor {in_file} is missing, expected shape {list(shape)}; {OTHER_MODEL}")
        tensor = self._tensors[in_file]
        if _significant(tensor.shape) != _significant(shape):
            found, expected = list(tensor.shape), list(shape)
            raise ModelError(
                f"{self.source}: tensor {in_file}: found shape {found}, expected {expected}; {OTHER_MODEL}"
            )

        def read() -> NDArray[Any]:
            array = tensor.read()
            if not np.isfinite(array).all():
                raise ModelError(
                    f"{self.source}: tensor {in_file}: found NaN or infinite values, expected numbers. The training "
                    "failed or the file is damaged: export another checkpoint."
                )
            return array.reshape(shape)

        self._taken[name] = StoredTensor(shape, read)
        return self._taken[name]


def _significant(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop leading dimensions of one: an embedding table of one row is a vector."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape
