"""Scenes with known truth: regions of two colors, crossed by lines one to three pixels wide."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import MaskSet
from esam_rt.method.grid_entities import GridEntities
from esam_rt.sam.geometry import CELL_PX, Geometry
from esam_rt.stages import Stage

SIDE_PX = 512
SHARPNESS = 4.0  # change of the logits per cell across a boundary
WAVER_CELLS = 0.5  # standard deviation of the boundaries that the model sees


@dataclass(frozen=True, eq=False)
class ThinScene:
    """A photo, its truth, and what a model with cells of four pixels sees of it.

    Attributes:
        image: uint8 [512, 512, 3].
        truth: int32 [512, 512], labels from 1.
        widths: Width of each line in pixels, by label.
        geometry: The place of the photo in the model's input.
        entities: The entities on the grid.
        all_logits: float32 [N, h, w].
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.int32]
    widths: dict[int, int]
    geometry: Geometry
    entities: GridEntities
    all_logits: NDArray[np.float32]

    def logits(self, points_norm_xy: NDArray[np.float32], mask_index: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of the entities, whose number stands in place of the point."""
        return self.all_logits[points_norm_xy[:, 0].astype(int)]


def thin_scene(seed: int) -> ThinScene:
    """Make a scene.

    Args:
        seed: Seed of places, colors and noise.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    seeds = rng.uniform(0, SIDE_PX, (5, 2))
    truth = np.stack([np.hypot(y - a, x - b) for a, b in seeds]).argmin(0).astype(np.int32) + 1
    widths = {}
    for width in (1, 2, 3):
        label = 6 + len(widths)
        ends = np.stack([[rng.integers(0, SIDE_PX), 0], [rng.integers(0, SIDE_PX), SIDE_PX - 1]])
        ends = ends if rng.random() < 0.5 else ends[:, ::-1]
        start, end = ([int(v) for v in point] for point in ends)
        cv2.line(truth, start, end, label, width, cv2.LINE_8)
        widths[label] = width
    colors = rng.integers(30, 226, (truth.max() + 1, 3))
    texture = cv2.GaussianBlur(rng.normal(size=truth.shape), (0, 0), 6)
    image = colors[truth] + 15 * (texture / texture.std())[..., None] + rng.normal(0, 4, (*truth.shape, 3))
    geometry = Geometry.of(truth.shape, SIDE_PX)
    h, w = geometry.grid_hw
    cells = truth.reshape(h, CELL_PX, w, CELL_PX)
    owner = cells[:, CELL_PX // 2, :, CELL_PX // 2].copy()
    for label in widths:  # a model that finds a line shows each cell that it touches
        owner[(cells == label).any((1, 3))] = label
    masks = np.stack([owner == k for k in np.unique(truth)])
    waver = np.stack([cv2.GaussianBlur(rng.normal(size=(h, w)), (0, 0), 4) for _ in masks])
    waver *= WAVER_CELLS / waver.std() * (np.arange(len(masks)) < 5)[:, None, None]  # lines would fall apart
    logits = SHARPNESS * (np.stack([_signed_depth(m) for m in masks]) + waver).astype(np.float32)
    seen = MaskSet.from_bool(np.where(masks[5:].any(0), masks, logits == logits.max(0)))
    entities = GridEntities(
        seen.bits, w, seen.area, seen.box_xyxy, seen.predicted_iou, np.full(len(seen), Stage.EMR, np.uint8),
        tuple(((k, 0),) for k in range(len(seen))),
    )  # fmt: skip
    photo = np.clip(image, 0, 255).astype(np.uint8)
    return ThinScene(photo, truth, widths, geometry, entities, logits)


def enlarged(scene: ThinScene, times: int) -> ThinScene:
    """Return a scene with a photo some times as wide and high, on the same grid.

    Args:
        scene: The scene.
        times: The factor.
    """
    truth = scene.truth.repeat(times, 0).repeat(times, 1)
    image = cv2.resize(scene.image, truth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return replace(scene, image=np.asarray(image, np.uint8), truth=truth, geometry=Geometry.of(truth.shape, SIDE_PX))


def _signed_depth(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance to the boundary in cells, positive inside."""
    inside = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(region, inside - 0.5, 0.5 - outside), np.float32)
