"""An engine around a function, for benchmarks that watch or replace a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self

from esam_rt.engines import Tensor


class FunctionEngine:
    """``Engine`` whose answers a function gives."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    def __init__(self, answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._answer = answer

    def infer(self, feed: Mapping[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
        """Return the function's answer."""
        return self._answer(feed)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
