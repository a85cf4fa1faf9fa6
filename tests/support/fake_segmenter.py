"""A segmenter without networks. It finds two entities: the left and the right half of the photo."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.run.run_options import RunOptions
from esam_rt.stages import Stage

STAGES = ("encoder", "decoder", "superpixels", "mmg", "emr", "usr", "upsampling")


class FakeSegmenter:
    """A segmenter without networks.

    Args:
        before: Called with the number of the photo, from 0, before the result. It may raise.
        sha256: Hash of the model, for the record of a run.
    """

    def __init__(self, before: Callable[[int], None] = lambda number: None, sha256: str = "00") -> None:
        self.before, self.sha256 = before, sha256
        self.seen = 0
        self.closed = False

    def __call__(self, image_hwc_rgb: NDArray[np.uint8]) -> EntityMap:
        self.before(self.seen)
        self.seen += 1
        h, w = image_hwc_rgb.shape[:2]
        labels = np.ones((h, w), np.uint16)
        labels[:, w // 2 :] = 2
        stage = np.full(2, Stage.MMG, np.uint8)
        return EntityMap.from_labels(labels, np.array([0.9, 0.8]), stage, dict.fromkeys(STAGES, 0.5))

    def model_info(self) -> dict[str, str]:
        return {"name": "fake", "checkpoint_sha256": self.sha256, "backend": "none", "device": "cpu"}

    def open(self, options: RunOptions) -> Self:
        """Replace `open_segmenter`."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.closed = True
