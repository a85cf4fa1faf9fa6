"""MaskSet: many binary masks of one image, bit-packed, as a structure of arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esam_rt.kernels.bits import areas_and_boxes, pack, unpack

WORD_CELLS = 64  # cells of one word of a packed row


class Level(IntEnum):
    """Level of a mask among the three of its prompt, sorted by area (E-SAM eq. 1)."""

    OBJECT = 0
    PART = 1
    SUBPART = 2


@dataclass(frozen=True, eq=False)
class MaskSet:
    """N masks on the working grid: the decoder's grid, cut to the image (no padding).

    Each row starts at a word. Cell x of a row is bit ``x % 64`` of word ``x // 64``, and bits right of ``width`` are
    zero. A box test therefore limits a pairwise operation to the rows and words that both masks touch.

    Attributes:
        bits: uint64 [N, H, ceil(W / 64)].
        width: W, in cells.
        area: int32 [N], in cells.
        box_xyxy: int16 [N, 4], in cells, half-open; zeros for an empty mask.
        predicted_iou: float32 [N].
        stability_score: float32 [N].
        prompt_index: int32 [N], number of the prompt.
        level: uint8 [N], a ``Level``.
        mask_index: uint8 [N], index among the decoder's three outputs before they were sorted by area.
        is_best: bool [N], True for the highest predicted IoU of a prompt (level B of E-SAM eq. 1).
    """

    bits: NDArray[np.uint64]
    width: int
    area: NDArray[np.int32]
    box_xyxy: NDArray[np.int16]
    predicted_iou: NDArray[np.float32]
    stability_score: NDArray[np.float32]
    prompt_index: NDArray[np.int32]
    level: NDArray[np.uint8]
    mask_index: NDArray[np.uint8]
    is_best: NDArray[np.bool_]

    @classmethod
    def from_bool(
        cls,
        masks_nhw: NDArray[np.bool_],
        predicted_iou: ArrayLike | None = None,
        prompt_index: ArrayLike | None = None,
        level: ArrayLike | None = None,
        stability_score: ArrayLike | None = None,
    ) -> MaskSet:
        """Pack masks. ``mask_index`` is the level, and every mask is the best one of its prompt.

        Args:
            masks_nhw: bool [N, H, W].
            predicted_iou: [N]. Default: ones.
            prompt_index: [N]. Default: 0 to N - 1.
            level: [N]. Default: ``Level.OBJECT``.
            stability_score: [N]. Default: ones.
        """
        n, _, w = masks_nhw.shape
        bits = pack(np.ascontiguousarray(masks_nhw))
        area, box = areas_and_boxes(bits)
        levels = np.zeros(n, np.uint8) if level is None else np.asarray(level, np.uint8)
        return cls(
            bits,
            w,
            area,
            box,
            np.ones(n, np.float32) if predicted_iou is None else np.asarray(predicted_iou, np.float32),
            np.ones(n, np.float32) if stability_score is None else np.asarray(stability_score, np.float32),
            np.arange(n, dtype=np.int32) if prompt_index is None else np.asarray(prompt_index, np.int32),
            levels,
            levels.copy(),
            np.ones(n, bool),
        )

    @classmethod
    def empty(cls, height: int, width: int) -> MaskSet:
        """Return a set without masks.

        Args:
            height: Rows of the grid.
            width: Columns of the grid.
        """
        return cls.from_bool(np.zeros((0, height, width), bool))

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Height and width of the working grid, in cells."""
        return self.bits.shape[1], self.width

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> MaskSet:
        """Copy some of the masks.

        Args:
            index: Indices in the order wanted, or a boolean mask [N].
        """
        picked: dict[str, Any] = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "width"}
        return replace(self, **picked)

    @staticmethod
    def concatenate(sets: list[MaskSet]) -> MaskSet:
        """Join sets in order.

        Args:
            sets: At least one set, all on one grid.

        Raises:
            ValueError: The grids differ.
        """
        grids = {s.grid_hw for s in sets}
        if len(grids) != 1:
            raise ValueError(f"MaskSets on different grids: {sorted(grids)}")
        joined: dict[str, Any] = {
            f.name: np.concatenate([getattr(s, f.name) for s in sets]) for f in fields(MaskSet) if f.name != "width"
        }
        return replace(sets[0], **joined)

    def at_level(self, level: Level) -> MaskSet:
        """Return the masks of one level, in order.

        Args:
            level: The level.
        """
        return self.select(self.level == level)

    def best_level(self) -> MaskSet:
        """Return the mask with the highest predicted IoU of each prompt, in order."""
        return self.select(self.is_best)

    def to_bool(self) -> NDArray[np.bool_]:
        """Unpack the masks to bool [N, H, W]."""
        return unpack(self.bits, self.width)

    def by_score(self) -> NDArray[np.intp]:
        """Return the indices by predicted IoU, descending; ties by index."""
        return np.argsort(-self.predicted_iou, kind="stable")
