"""An engine around a function, for benchmarks that watch or replace a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Self


class FunctionEngine:
    """An ``Engine`` that answers with a function.

    Args:
        answer: Maps a feed to the outputs by name.
    """

    inputs = outputs = ()

    def __init__(self, answer: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._answer = answer

    def infer(self, feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        """Return the function's answer."""
        return self._answer(feed)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
