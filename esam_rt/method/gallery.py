"""The gallery of E-SAM §3.3: masks of the fine grid, which guide what is split and merged; decoded when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import MaskSet
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid, scattered


class Gallery:
    """High-confidence object and best masks of the fine grid's prompts, as far as they were decoded.

    decode: the masks of points float32 [N, 2], numbered from 0. cells_yx: int32 [side², 2], the cell of each prompt.
    order: int64 [side²], the prompts scattered: the first few of any region lie spread over it. masks: those decoded,
    `point` the prompt's index, by which they are sorted. closed: is set once nobody wants more of them.
    """

    def __init__(
        self,
        side: int,
        geometry: Geometry,
        decode: Callable[[NDArray[np.float32]], MaskSet],
        closed: threading.Event | None = None,
    ) -> None:
        self._decode = decode
        self._points_01 = point_grid(side)
        self._decoded = np.zeros(len(self._points_01), bool)
        self.cells_yx = geometry.to_cell_yx(self._points_01)
        self.order = scattered(side)
        self.masks = MaskSet.empty(*geometry.grid_hw)
        self._closed = closed or threading.Event()

    def __len__(self) -> int:
        return len(self._points_01)

    def ask(self, wanted: NDArray[np.bool_]) -> None:
        """Decode the prompts bool [side²] that were not decoded before."""
        index = np.flatnonzero(wanted & ~self._decoded)
        if len(index) == 0:
            return
        found = self._decode(self._points_01[index])
        both = MaskSet.concatenate(
            [self.masks, replace(found, prompt_index=index[found.prompt_index].astype(np.int32))]
        )
        self.masks = both.select(np.argsort(both.prompt_index, kind="stable"))
        self._decoded[index] = True

    def ask_all(self) -> None:
        """Decode every prompt."""
        self.ask(np.ones(len(self), bool))

    def close(self) -> None:
        """Tell `decode`, which another thread may be in."""
        self._closed.set()
