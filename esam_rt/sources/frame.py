"""Frame: one photo on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """image_hwc_rgb: uint8 [H, W, 3], upright. name: path relative to the source's root, with forward slashes.
    stamp_ns: time of the exposure in nanoseconds since the epoch, where the source knows it."""

    image_hwc_rgb: NDArray[np.uint8]
    name: str
    stamp_ns: int | None = None
