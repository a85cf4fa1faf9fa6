"""Which extents the inputs of SAM's graphs may have: the ranges that engines are built for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from esam_rt.errors import ModelError

Profile: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Least, usual and greatest shape of an input."""


def profile_shapes(path: Path, inputs: Mapping[str, Sequence[int | str]], max_batch: int) -> dict[str, Profile]:
    """The profiles of those inputs of a graph that have free extents, which are names in their shapes.

    path: for messages. max_batch: prompts of one call at most. ModelError for a name that SAM's graphs do not have.
    """
    side = math.isqrt(int(inputs["prompt_image_embeddings"][1])) if "prompt_image_embeddings" in inputs else 0
    # Photos of 4:3 are most common; the greatest batch is what a run asks for but for its last call.
    ranges = {
        "B": (1, max_batch, max_batch),
        "M": (1, max_batch, max_batch),
        "rows": (1, 3 * side // 4, side),
        "columns": (2, side, side),
    }
    shapes: dict[str, Profile] = {}
    for name, extents in inputs.items():
        free = [n for n in extents if isinstance(n, str)]
        if unknown := [n for n in free if n not in ranges]:
            raise ModelError(
                f"{path}: input {name}: found free extent {unknown[0]!r}, expected one of {', '.join(ranges)}."
            )
        if free:
            low, usual, high = (tuple(ranges[n][k] if isinstance(n, str) else n for n in extents) for k in range(3))
            shapes[name] = low, usual, high
    return shapes
