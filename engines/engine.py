"""The one interface between the pipeline and whatever executes a network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import EngineError


class Kept(Protocol):
    """An output that stays where the engine computed it, to be fed to another engine of the same backend and device."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As a NumPy dtype."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        ...


Array: TypeAlias = NDArray[Any] | Kept


@dataclass(frozen=True)
class Tensor:
    """Name, NumPy dtype and shape of an input or output; None = any extent."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def accepts(self, array: Array) -> bool:
        """Whether dtype and shape of `array` fit."""
        return (
            array.dtype == self.dtype
            and len(array.shape) == len(self.shape)
            and all(want is None or want == got for want, got in zip(self.shape, array.shape, strict=True))
        )


class Engine(Protocol):
    """A loaded network. `infer` may be called from several threads at once."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What `infer` must be fed."""
        ...

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What `infer` returns."""
        ...

    def infer(self, feed: Mapping[str, Array], keep: Collection[str] = ()) -> dict[str, Any]:
        """Run once: all outputs by name, NumPy arrays but for those in `keep`, which are `Kept`.

        EngineError for a missing, unknown or misshapen input, one kept by another backend, or when closed.
        """
        ...

    def close(self) -> None:
        """Release the device's resources; further calls fail. Closing twice does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: ...


def check_feed(engine: str, inputs: tuple[Tensor, ...], feed: Mapping[str, Array]) -> None:
    """Names, dtypes and shapes of a feed, checked before launch; EngineError says expected and got."""
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
