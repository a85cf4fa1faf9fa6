"""MaskSet: many binary masks of one photo, bit-packed, as a structure of arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esam_rt.kernels.bits import areas_and_boxes, pack, unpack


class Level(IntEnum):
    """Level of a mask among the three of its prompt, by area (E-SAM eq. 1)."""

    OBJECT = 0
    PART = 1
    SUBPART = 2


@dataclass(frozen=True, eq=False)
class MaskSet:
    """N masks on the working grid: the decoder's grid, cut to the photo (no padding).

    Rows start at a word: 64 cells of a row lie in one uint64, cell x in bit x % 64 of word x // 64, and bits right of
    `width` are zero. So a box test cuts a pairwise operation to the rows and words that both masks touch.

    bits: uint64 [N, H, ceil(W / 64)]. width: W. area: int32 [N], cells. box_xyxy: int16 [N, 4], cells, half-open, zeros
    for an empty mask. score: float32 [N], predicted IoU. stability: float32 [N]. point: int32 [N], index of the prompt.
    level: uint8 [N], `Level`. output: uint8 [N], which of the decoder's three outputs it was before sorting by area.
    best: bool [N], whether it has the highest score of its prompt (level B of E-SAM eq. 1).
    """

    bits: NDArray[np.uint64]
    width: int
    area: NDArray[np.int32]
    box_xyxy: NDArray[np.int16]
    score: NDArray[np.float32]
    stability: NDArray[np.float32]
    point: NDArray[np.int32]
    level: NDArray[np.uint8]
    output: NDArray[np.uint8]
    best: NDArray[np.bool_]

    @classmethod
    def from_bool(
        cls,
        masks_nhw: NDArray[np.bool_],
        score: ArrayLike | None = None,
        point: ArrayLike | None = None,
        level: ArrayLike | None = None,
        stability: ArrayLike | None = None,
    ) -> MaskSet:
        """Pack bool [N, H, W]; what is missing: scores and stabilities 1, points 0…N-1, levels OBJECT.

        `output` is the level, and all are best.
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
            np.ones(n, np.float32) if score is None else np.asarray(score, np.float32),
            np.ones(n, np.float32) if stability is None else np.asarray(stability, np.float32),
            np.arange(n, dtype=np.int32) if point is None else np.asarray(point, np.int32),
            levels,
            levels.copy(),
            np.ones(n, bool),
        )

    @classmethod
    def empty(cls, height: int, width: int) -> MaskSet:
        """No masks on a grid of height × width."""
        return cls.from_bool(np.zeros((0, height, width), bool))

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Height and width of the working grid in cells."""
        return self.bits.shape[1], self.width

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> MaskSet:
        """The masks at `index` (integers or a boolean mask), in that order, copied."""
        picked: dict[str, Any] = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "width"}
        return replace(self, **picked)

    @staticmethod
    def concatenate(sets: list[MaskSet]) -> MaskSet:
        """All masks of `sets` (at least one set, all on one grid) in order."""
        grids = {s.grid_hw for s in sets}
        if len(grids) != 1:
            raise ValueError(f"MaskSets on different grids: {sorted(grids)}")
        joined: dict[str, Any] = {
            f.name: np.concatenate([getattr(s, f.name) for s in sets]) for f in fields(MaskSet) if f.name != "width"
        }
        return replace(sets[0], **joined)

    def at_level(self, level: Level) -> MaskSet:
        """The masks of one level, in order."""
        return self.select(self.level == level)

    def best_level(self) -> MaskSet:
        """The masks with the highest score of their prompts, in order."""
        return self.select(self.best)

    def to_bool(self) -> NDArray[np.bool_]:
        """bool [N, H, W]."""
        return unpack(self.bits, self.width)

    def by_score(self) -> NDArray[np.intp]:
        """Indices by score, descending; ties by index."""
        return np.argsort(-self.score, kind="stable")
