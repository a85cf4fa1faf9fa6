"""Coherent prompts: the entities of a frame choose most prompts of the next one."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid, scattered
from esam_rt.settings import Settings

OLDEST = 30  # frames: a gap that waits longer is not worth more
NEAR = 6  # side of the squares of cells, one of which counts as looked at with a prompt in it


class CoherentPrompts:
    """The prompts of a camera's frames. One object follows one camera; make a new one after a scene cut.

    The first frame gets the whole coarse grid. A later frame gets the innermost point of each entity of the frame
    before, the largest first, and then a few points of the coarse grid. These are others in each frame, until it is
    their turn again. Nothing stays unseen. Only a few of the gaps that are left get a prompt: those that are deep and
    wait long.
    """

    def __init__(self) -> None:
        self._last: EntityMap | None = None
        self._turn = self._frame = 0
        self._looked_at: dict[tuple[int, int], int] = {}  # last frame in which a gap's prompt was in a square of cells
        self._looking_at: set[tuple[int, int]] = set()  # in this frame

    @property
    def has_entities(self) -> bool:
        """True after the first frame."""
        return self._last is not None

    def follow(self, entities: EntityMap) -> None:
        """Take the entities of a frame, for the prompts of the next one.

        Args:
            entities: The entities.
        """
        self._last = entities
        old = {square: frame for square, frame in self._looked_at.items() if self._frame - frame < OLDEST}
        self._looked_at, self._looking_at = old | dict.fromkeys(self._looking_at, self._frame), set()
        self._frame += 1

    def points(self, geometry: Geometry, settings: Settings) -> NDArray[np.float32]:
        """Return the points of the next frame in place of the coarse grid.

        Args:
            geometry: The place of the image in the model's input.
            settings: All settings; ``coherent`` and ``prompts`` count here.

        Returns:
            float32 [N, 2] in [0, 1] of the image, x before y, the most useful first.
        """
        assert self._last is not None, "follow() comes first"
        side = settings.prompts.coarse_side
        order = scattered(side)
        now = order[(self._turn + np.arange(min(settings.coherent.grid, len(order)))) % len(order)]
        self._turn = (self._turn + len(now)) % len(order)
        inner = geometry.from_cell_xy(innermost_cells(self._last, geometry.grid_hw))
        return np.concatenate([inner, point_grid(side)[now]])

    def choose_gaps(self, cells_yx: NDArray[np.int32], depth: NDArray[np.float32], most: int) -> NDArray[np.int64]:
        """Choose the gaps that get a prompt: by their depth, times the frames since an earlier frame had one near.

        Args:
            cells_yx: int32 [N, 2], the cell of each gap's prompt.
            depth: float32 [N], distance from the nearest entity, in cells.
            most: Most gaps to choose.

        Returns:
            int64 [min(N, most)], indices, the most urgent first.
        """
        squares = [(int(y), int(x)) for y, x in cells_yx // NEAR]
        age = [min(self._frame - self._looked_at.get(square, -OLDEST), OLDEST) for square in squares]
        chosen = np.argsort(-depth * np.array(age, np.float32), kind="stable")[:most]
        self._looking_at |= {squares[i] for i in chosen}
        return np.asarray(chosen, np.int64)


def innermost_cells(entities: EntityMap, grid_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Return the cell of each entity that is farthest from its border, the largest entity first.

    The border of the image counts as a border. An entity that is too small for the grid has none.

    Args:
        entities: The entities.
        grid_hw: Height and width of the working grid.

    Returns:
        float64 [N, 2], x before y, in cells.
    """
    h, w = grid_hw
    labels = cv2.resize(entities.labels, (w, h), interpolation=cv2.INTER_NEAREST)
    area = np.bincount(labels.ravel(), minlength=len(entities) + 1)[1:]
    order = np.argsort(-area, kind="stable")
    cells = []
    for label in order[area[order] > 0] + 1:
        rows, columns = (labels == label).any(axis=1), (labels == label).any(axis=0)
        y0, x0 = int(rows.argmax()), int(columns.argmax())
        y1, x1 = h - int(rows[::-1].argmax()), w - int(columns[::-1].argmax())
        inside = np.pad((labels[y0:y1, x0:x1] == label).astype(np.uint8), 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        cells.append((x0 + int(x) - 1, y0 + int(y) - 1))
    return np.array(cells, np.float64).reshape(-1, 2)
