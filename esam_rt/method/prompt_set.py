"""PromptSet: the point prompts of one image, and the masks decoded up to now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import MaskSet
from esam_rt.method.time_budget import TimeBudget
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import Latitudes, point_grid, scattered

Decode = Callable[[NDArray[np.float32]], MaskSet]
"""Returns the masks of points float32 [N, 2], numbered from 0."""


class PromptSet:
    """Prompts that are decoded when they are asked for. ``PromptSet.grid`` makes one of a square grid.

    Args:
        points_norm_xy: float32 [P, 2] in [0, 1] of the image, x before y.
        geometry: The place of the image in the model's input.
        decode: Returns the masks of points float32 [N, 2], numbered from 0.
        budget: The time for decoding. Default: no limit.
        order: int64 [P], the prompts in the order in which a limited budget decodes them. Default: as they are.

    Attributes:
        points_norm_xy: See above.
        cells_yx: int32 [P, 2], the cell of each prompt.
        order: See above.
        is_decoded: bool [P].
        is_complete: False after the time ended before all asked prompts were decoded.
        masks: The masks decoded up to now, sorted by ``prompt_index``.
    """

    def __init__(
        self,
        points_norm_xy: NDArray[np.float32],
        geometry: Geometry,
        decode: Decode,
        budget: TimeBudget | None = None,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        self.points_norm_xy = points_norm_xy
        self.cells_yx = geometry.to_cell_yx(points_norm_xy)
        self.order = np.arange(len(points_norm_xy)) if order is None else order
        self.is_decoded = np.zeros(len(points_norm_xy), bool)
        self.is_complete = True
        self.masks = MaskSet.empty(*geometry.grid_hw)
        self._decode = decode
        self._budget = budget if budget is not None and budget.is_limited else None

    @classmethod
    def grid(
        cls,
        side: int,
        geometry: Geometry,
        decode: Decode,
        budget: TimeBudget | None = None,
        latitudes: Latitudes | None = None,
    ) -> PromptSet:
        """Make the prompts of a grid. Their order is scattered: the first few of any region are spread over it.

        Args:
            side: Points per side; P = side² without latitudes.
            geometry: See above.
            decode: See above.
            budget: See above.
            latitudes: Latitudes of the upper and the lower edge, if the image is a part of a panorama.
        """
        return cls(point_grid(side, latitudes), geometry, decode, budget, scattered(side, latitudes))

    def __len__(self) -> int:
        return len(self.points_norm_xy)

    def ask(self, wanted: NDArray[np.bool_] | NDArray[np.int64]) -> None:
        """Decode the prompts that were not decoded before, as many as there is time for.

        Without a time limit this is one call of the model. Otherwise the budget is asked before each batch.

        Args:
            wanted: bool [P], or indices int64 [N] in the order in which they are decoded.
        """
        index = wanted
        if index.dtype == np.bool_:
            index = self.order[wanted[self.order]] if self._budget else np.flatnonzero(wanted)
        index = index[~self.is_decoded[index]]
        found = [self.masks]
        while len(index):
            count = len(index) if self._budget is None else self._budget.next_batch(len(index))
            if count == 0:
                self.is_complete = False
                break
            batch, index = index[:count], index[count:]
            masks = self._decode(self.points_norm_xy[batch])
            found.append(replace(masks, prompt_index=batch[masks.prompt_index].astype(np.int32)))
            self.is_decoded[batch] = True
        self.masks = _joined([masks for masks in found if len(masks)] or found[:1])

    def ask_all(self) -> None:
        """Decode every prompt."""
        self.ask(np.ones(len(self), bool))

    def take_over(self, other: PromptSet) -> None:
        """Take the masks of another set for the prompts at the same points. This set has no masks of its own yet.

        Args:
            other: The other set.
        """
        place = {point.tobytes(): i for i, point in enumerate(self.points_norm_xy)}
        new_index = np.array([place.get(point.tobytes(), -1) for point in other.points_norm_xy], np.int64)
        masks = other.masks.select(new_index[other.masks.prompt_index] >= 0)
        self.masks = _joined([replace(masks, prompt_index=new_index[masks.prompt_index].astype(np.int32))])
        self.is_decoded[new_index[(new_index >= 0) & other.is_decoded]] = True


def _joined(sets: list[MaskSet]) -> MaskSet:
    """Join masks and sort them by prompt. Nothing is copied if they are one set in order."""
    both = sets[0] if len(sets) == 1 else MaskSet.concatenate(sets)
    is_sorted = (np.diff(both.prompt_index) >= 0).all()
    return both if is_sorted else both.select(np.argsort(both.prompt_index, kind="stable"))
