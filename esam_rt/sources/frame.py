"""Frame: one image on its way from a source to the sinks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a source.

    Attributes:
        image_hwc_rgb: uint8 [H, W, 3], RGB, upright.
        name: Name of the frame, unique in its source. It is a relative path with forward slashes, such as
            ``sub/a.jpg``; output files are named after it.
        stamp_ns: Time of the exposure in nanoseconds since the epoch, or None if it is unknown.
        frame_id: Coordinate frame of the camera, as in ROS. Empty if it is unknown.
        header: Header of the source's own message, such as a ROS header. None if there is no header.
        path: The frame's file, or None if it is in no file of its own.
        valid: bool [H, W], the pixels that hold data. Others get no label. None if all do.
        disposable: True if nobody reads the image after the last sink. A sink may then draw on it without a copy.
    """

    image_hwc_rgb: NDArray[np.uint8]
    name: str
    stamp_ns: int | None = None
    frame_id: str = ""
    header: Any = None
    path: Path | None = None
    disposable: bool = False
    valid: NDArray[np.bool_] | None = None
