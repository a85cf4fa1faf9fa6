"""The ranges of dynamic dimensions that engines for SAM's graphs are built for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from esam_rt.errors import ModelError


class ShapeRange(NamedTuple):
    """The shapes of one input that an engine accepts."""

    min: tuple[int, ...]
    """Smallest shape."""

    opt: tuple[int, ...]
    """Most common shape. The builder optimizes for it."""

    max: tuple[int, ...]
    """Largest shape."""


def shape_ranges(path: Path, inputs: Mapping[str, Sequence[int | str]], max_batch: int) -> dict[str, ShapeRange]:
    """Choose the shape ranges of the inputs that have dynamic dimensions.

    Args:
        path: Graph file, for messages.
        inputs: Shape of each input of the graph. A dynamic dimension is given by its name.
        max_batch: Largest number of prompts in one call.

    Returns:
        The range of each input that has a dynamic dimension, by name.

    Raises:
        ModelError: SAM's graphs have no dynamic dimension of this name.
    """
    side = math.isqrt(int(inputs["prompt_image_embeddings"][1])) if "prompt_image_embeddings" in inputs else 0
    # Photos of 4:3 are the most common. All calls but the last of a run have the largest batch.
    dimensions = {
        "B": (1, max_batch, max_batch),
        "M": (1, max_batch, max_batch),
        "rows": (1, 3 * side // 4, side),
        "columns": (2, side, side),
    }
    ranges: dict[str, ShapeRange] = {}
    for name, shape in inputs.items():
        dynamic = [n for n in shape if isinstance(n, str)]
        if unknown := [n for n in dynamic if n not in dimensions]:
            raise ModelError(
                f"{path}: input {name}: found dynamic dimension {unknown[0]!r}, expected one of "
                f"{', '.join(dimensions)}."
            )
        if dynamic:
            ranges[name] = ShapeRange(
                *(tuple(dimensions[n][k] if isinstance(n, str) else n for n in shape) for k in range(3))
            )
    return ranges
