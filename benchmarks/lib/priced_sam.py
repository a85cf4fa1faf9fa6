"""A model whose calls cost a fixed price, and a clock that counts these prices."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.stored_sam import StoredSam
from esam_rt.masks import MaskSet
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Filters


@dataclass(frozen=True)
class Prices:
    """CPU seconds of the model's calls.

    Attributes:
        encoder_s: One photo.
        prompt_s: One prompt.
        drawing_s: The logits of one mask.
    """

    encoder_s: float = 0.0
    prompt_s: float = 0.0
    drawing_s: float = 0.0

    @classmethod
    def measured(cls, sam: Sam, images: list[NDArray[np.uint8]], filters: Filters) -> Prices:
        """Measure the prices: medians over photos, after one photo that does not count.

        Args:
            sam: The model.
            images: At least two photos.
            filters: Filters of high-confidence masks.
        """
        points, rows = point_grid(8), []
        for image in images:
            start = time.process_time()
            encoded = sam.encode(image)
            middle = time.process_time()
            sam.decode(encoded, points, 0, filters)
            then = time.process_time()
            sam.logits(encoded, points, np.zeros(len(points), np.uint8))
            rows.append((middle - start, (then - middle) / len(points), (time.process_time() - then) / len(points)))
        return cls(*(round(float(value), 6) for value in np.median(rows[1:], axis=0)))


class PricedSam(StoredSam):
    """A model that remembers photos. Each call counts its price, also if the answer was remembered.

    ``clock`` returns these prices plus the CPU seconds that the process spent outside the model.

    Args:
        sam: The model to ask for missing results.
        prices: Prices of its calls.
        folder: See ``StoredSam``.
    """

    def __init__(self, sam: Sam, prices: Prices, folder: Path | None) -> None:
        super().__init__(sam, folder)
        self._prices, self._charged_s, self._inside_s = prices, 0.0, 0.0

    def clock(self) -> float:
        """Return the CPU seconds that the process would have spent up to now with nothing remembered."""
        return time.process_time() - self._inside_s + self._charged_s

    def charged(self) -> float:
        """Return the sum of the prices up to now. It is the same on every machine."""
        return self._charged_s

    def encode(self, image_hwc_rgb: Any) -> EncodedImage:
        """Encode the photo."""
        start = time.process_time()
        encoded = super().encode(image_hwc_rgb)
        self._charge(self._prices.encoder_s, start)
        return encoded

    def decode(self, encoded: EncodedImage, points_norm_xy: NDArray[np.float32], *rest: Any, **options: Any) -> MaskSet:
        """Decode prompts."""
        start = time.process_time()
        masks = super().decode(encoded, points_norm_xy, *rest, **options)
        self._charge(self._prices.prompt_s * len(points_norm_xy), start)
        return masks

    def logits(
        self, encoded: EncodedImage, points_norm_xy: NDArray[np.float32], *rest: Any, **options: Any
    ) -> NDArray[np.float32]:
        """Draw masks."""
        start = time.process_time()
        logits = super().logits(encoded, points_norm_xy, *rest, **options)
        self._charge(self._prices.drawing_s * len(points_norm_xy), start)
        return logits

    def _charge(self, price_s: float, start: float) -> None:
        self._charged_s += price_s
        self._inside_s += time.process_time() - start
