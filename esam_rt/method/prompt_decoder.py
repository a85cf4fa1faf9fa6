"""PromptDecoder: the model and one encoded image, with the time that each call takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import Level, MaskSet
from esam_rt.method.time_budget import TimeBudget
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.promptable import Promptable
from esam_rt.settings import Filters
from esam_rt.tracing import Trace


class PromptDecoder:
    """Decodes prompts of one image, and draws its masks.

    Args:
        sam: The model.
        encoded: The image.
        filters: Filters of high-confidence masks.
        cancel: Set it to stop decoding, in this thread or another one.
        budget: Measures each call.
        trace: Records the time.
    """

    def __init__(
        self,
        sam: Promptable,
        encoded: EncodedImage,
        filters: Filters,
        cancel: CancelToken,
        budget: TimeBudget,
        trace: Trace,
    ) -> None:
        self._sam, self._encoded, self._filters = sam, encoded, filters
        self._cancel, self._budget, self._trace = cancel, budget, trace

    def at(self, levels: tuple[Level, ...] = tuple(Level)) -> Callable[[NDArray[np.float32]], MaskSet]:
        """Return a function that decodes points float32 [N, 2] in [0, 1] of the image, x before y.

        It returns high-confidence masks, numbered from 0. It raises ``DecodingCancelledError`` after ``cancel`` was
        set.

        Args:
            levels: Levels to return. The best mask of each prompt is returned too.
        """

        def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
            with self._trace.span("decoder"), self._budget.step("prompt", len(points_norm_xy)):
                return self._sam.decode(self._encoded, points_norm_xy, 0, self._filters, levels, cancel=self._cancel)

        return decode

    def logits(self, points_norm_xy: NDArray[np.float32], mask_index: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of one mask of each prompt, float32 [N, H, W] on the working grid.

        Args:
            points_norm_xy: Points [N, 2] in [0, 1] of the image, x before y.
            mask_index: The decoder's output to draw, 0 to 2 for each prompt, [N].

        Raises:
            DecodingCancelledError: ``cancel`` was set.
        """
        self._cancel.check()
        with self._budget.step("drawing", len(points_norm_xy)):
            return self._sam.logits(self._encoded, points_norm_xy, mask_index)
