"""The gallery of E-SAM §3.3: masks of the fine grid that guide splits and merges. They are decoded on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import Level, MaskSet
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid, scattered
from esam_rt.sam.promptable import Promptable
from esam_rt.settings import Filters
from esam_rt.tracing import Trace


class LazyDecoder:
    """Decodes prompts of one image when a gallery asks for them.

    Args:
        sam: The model.
        encoded: The image.
        filters: Filters of high-confidence masks.
        cancel: Set it to stop decoding, in this thread or another one.
        trace: Records the time.
    """

    def __init__(
        self, sam: Promptable, encoded: EncodedImage, filters: Filters, cancel: CancelToken, trace: Trace
    ) -> None:
        self._sam, self._encoded, self._filters, self._cancel, self._trace = sam, encoded, filters, cancel, trace

    def __call__(self, points_norm_xy: NDArray[np.float32]) -> MaskSet:
        """Return object masks and best masks.

        Args:
            points_norm_xy: Points [N, 2] in [0, 1] of the image, x before y.

        Raises:
            DecodingCancelledError: ``cancel`` was set.
        """
        with self._trace.span("decoder"):
            return self._sam.decode(
                self._encoded, points_norm_xy, 0, self._filters, (Level.OBJECT,), cancel=self._cancel
            )


class Gallery:
    """High-confidence object masks and best masks of the fine grid's prompts.

    Args:
        side: Points per side of the fine grid.
        geometry: The place of the image in the model's input.
        decode: Returns the masks of points float32 [N, 2], numbered from 0.

    Attributes:
        points_norm_xy: float32 [P, 2], the prompts, in [0, 1] of the image, x before y; P = side².
        cells_yx: int32 [P, 2], the cell of each prompt.
        order: int64 [P], the prompts scattered: the first few of any region are spread over it.
        masks: The masks decoded up to now, sorted by ``prompt_index``.
    """

    def __init__(self, side: int, geometry: Geometry, decode: Callable[[NDArray[np.float32]], MaskSet]) -> None:
        self._decode = decode
        self.points_norm_xy = point_grid(side)
        self._is_decoded = np.zeros(len(self.points_norm_xy), bool)
        self.cells_yx = geometry.to_cell_yx(self.points_norm_xy)
        self.order = scattered(side)
        self.masks = MaskSet.empty(*geometry.grid_hw)

    def __len__(self) -> int:
        return len(self.points_norm_xy)

    def ask(self, wanted: NDArray[np.bool_]) -> None:
        """Decode the prompts that were not decoded before.

        Args:
            wanted: bool [P].
        """
        index = np.flatnonzero(wanted & ~self._is_decoded)
        if len(index) == 0:
            return
        found = self._decode(self.points_norm_xy[index])
        numbered = replace(found, prompt_index=index[found.prompt_index].astype(np.int32))
        both = MaskSet.concatenate([self.masks, numbered])
        self.masks = both.select(np.argsort(both.prompt_index, kind="stable"))
        self._is_decoded[index] = True

    def ask_all(self) -> None:
        """Decode every prompt."""
        self.ask(np.ones(len(self), bool))
