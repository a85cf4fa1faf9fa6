"""GridEntities: entities on the working grid, before they are drawn at the image's resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.bits import areas_and_boxes, rasterize_union, unpack
from esam_rt.kernels.fragments import without_fragments
from esam_rt.masks import MaskSet
from esam_rt.stages import Stage

Source = tuple[int, int]
"""A mask by the index of its prompt and its index among the prompt's three outputs."""


@dataclass(frozen=True, eq=False)
class GridEntities:
    """N entities on the working grid.

    Attributes:
        bits: uint64 [N, H, ceil(W / 64)], as in ``MaskSet``.
        width: W, in cells.
        area: int32 [N], in cells.
        box_xyxy: int16 [N, 4], in cells, half-open.
        score: float32 [N], predicted IoU.
        stage: uint8 [N], a ``Stage``.
        sources: The masks that each entity was made of. Their logits give the entity its boundary.
    """

    bits: NDArray[np.uint64]
    width: int
    area: NDArray[np.int32]
    box_xyxy: NDArray[np.int16]
    score: NDArray[np.float32]
    stage: NDArray[np.uint8]
    sources: tuple[tuple[Source, ...], ...]

    @classmethod
    def of(
        cls,
        bits: NDArray[np.uint64],
        width: int,
        score: NDArray[np.float32],
        stage: NDArray[np.uint8],
        sources: list[tuple[Source, ...]],
        min_area: int,
    ) -> GridEntities:
        """Measure entities and remove small fragments.

        Args:
            bits: uint64 [N, H, ceil(W / 64)], masks that do not overlap.
            width: W, in cells.
            score: float32 [N].
            stage: uint8 [N].
            sources: The masks that each entity was made of.
            min_area: Smaller fragments and smaller entities disappear, in cells.
        """
        bits = without_fragments(bits, min_area)
        area, box = areas_and_boxes(bits)
        keep = np.flatnonzero(area >= min_area)
        kept_sources = tuple(sources[i] for i in keep)
        return cls(bits[keep], width, area[keep], box[keep], score[keep], stage[keep], kept_sources)

    @classmethod
    def by_score(cls, masks: MaskSet, stage: Stage, min_area: int) -> GridEntities:
        """Make entities of masks that may overlap: each cell goes to the mask with the highest score.

        Args:
            masks: The masks.
            stage: The stage of all entities.
            min_area: Smaller fragments and smaller entities disappear, in cells.
        """
        bits = masks.bits.copy()
        covered = np.zeros(bits.shape[1:], np.uint64)
        for i in masks.by_score():
            bits[i] &= ~covered
            covered |= bits[i]
        stages = np.full(len(masks), stage, np.uint8)
        return cls.of(bits, masks.width, masks.predicted_iou, stages, sources_of(masks), min_area)

    def __len__(self) -> int:
        return len(self.bits)

    def covered(self) -> NDArray[np.uint64]:
        """Return the cells of all entities, uint64 [H, ceil(W / 64)]."""
        return rasterize_union(self.bits, np.arange(len(self)))

    def labels(self) -> NDArray[np.int32]:
        """Return labels, int32 [H, W]: 0 is no entity, i + 1 is entity i."""
        out = np.zeros((self.bits.shape[1], self.width), np.int32)
        for i, (x0, y0, x1, y1) in enumerate(self.box_xyxy):
            out[y0:y1, x0:x1][unpack(self.bits[i : i + 1, y0:y1], self.width)[0, :, x0:x1]] = i + 1
        return out


def sources_of(masks: MaskSet) -> list[tuple[Source, ...]]:
    """Return each mask as its own single source.

    Args:
        masks: The masks.
    """
    return [((int(p), int(o)),) for p, o in zip(masks.prompt_index, masks.mask_index, strict=True)]
