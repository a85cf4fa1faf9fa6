"""The interface between the pipeline and the backends that run a network.

Life cycle of an engine:

1. The constructor loads the network and reserves the device. It raises an error if the device cannot be used. It never
   falls back to another device.
2. ``inputs`` and ``outputs`` describe the tensors. They do not change.
3. ``infer`` runs the network once. It may be called as often as needed, from several threads at once.
4. ``close`` releases the device. An engine is also a context manager that closes itself.

How to write a backend:

1. Write a class with the members of ``Engine``. It need not inherit from ``Engine``.
2. Build ``inputs`` and ``outputs`` from the library's own description of the network. Get each dtype from
   ``esam_rt.engines.dtypes``.
3. In ``infer``, call ``check_feed`` before the launch. Return NumPy arrays that no later call overwrites. Return a
   ``DeviceTensor`` for each name in ``outputs_on_device``, and accept it again as an input.
4. Translate the library's errors: ``EngineError`` for a failed call, ``OutOfMemoryError`` if a smaller batch may
   succeed, ``ModelError`` for a bad file, ``DeviceError`` for a device that cannot be used.
5. Add the backend to ``esam_rt.loading``, which maps names to engines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import EngineError


class DeviceTensor(Protocol):
    """An output that stays on the device. Another engine of the same backend and device takes it as an input."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the elements."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        ...


Array: TypeAlias = NDArray[Any] | DeviceTensor
"""An input or output: on the host or on the device."""


@dataclass(frozen=True)
class TensorSpec:
    """Description of one input or output of a network.

    Attributes:
        name: Name in the graph.
        dtype: NumPy dtype.
        shape: Dimensions. None marks a dynamic dimension.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def accepts(self, array: Array) -> bool:
        """Check the dtype and the shape of an array.

        Args:
            array: Array on the host or the device.

        Returns:
            True if the dtype is equal and each dimension is equal or dynamic.
        """
        return (
            array.dtype == self.dtype
            and len(array.shape) == len(self.shape)
            and all(want is None or want == got for want, got in zip(self.shape, array.shape, strict=True))
        )


class Engine(Protocol):
    """A loaded network. The module's docstring describes its life cycle."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that ``infer`` expects."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that ``infer`` returns."""
        ...

    def infer(self, feed: Mapping[str, Array], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        """Run the network once. Safe to call from several threads.

        Args:
            feed: One array for each input, by name.
            outputs_on_device: Names of the outputs that must stay on the device.

        Returns:
            All outputs by name. Each is a NumPy array, or a ``DeviceTensor`` if its name is in ``outputs_on_device``.
            No later call overwrites it.

        Raises:
            EngineError: An input is missing, unknown, misshapen or of another backend, or the engine is closed.
            OutOfMemoryError: The device has too little memory. The engine stays usable.
        """
        ...

    def close(self) -> None:
        """Release the device's resources. Later calls of ``infer`` fail. Closing twice has no effect."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: ...


def check_feed(engine: str, inputs: tuple[TensorSpec, ...], feed: Mapping[str, Array]) -> None:
    """Check names, dtypes and shapes of a feed before the launch.

    Args:
        engine: Name of the engine, for messages.
        inputs: Tensors that the engine expects.
        feed: Arrays by name.

    Raises:
        EngineError: A name, dtype or shape is wrong. The message has the expected and the actual one.
    """
    expected = {t.name for t in inputs}
    if missing := sorted(expected - feed.keys()):
        raise EngineError(f"{engine}: missing input {', '.join(missing)}; expected {', '.join(sorted(expected))}.")
    if unknown := sorted(feed.keys() - expected):
        raise EngineError(f"{engine}: unknown input {', '.join(unknown)}; expected {', '.join(sorted(expected))}.")
    for t in inputs:
        array = feed[t.name]
        if not t.accepts(array):
            shape = "×".join("any" if d is None else str(d) for d in t.shape) or "scalar"
            got = "×".join(map(str, array.shape)) or "scalar"
            raise EngineError(f"{engine}: input {t.name}: expected {t.dtype} {shape}, got {array.dtype} {got}.")
