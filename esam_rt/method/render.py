"""Draws entities at the image's resolution, with boundaries from logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from esam_rt.kernels.bits import unpack
from esam_rt.kernels.upsample import paint
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.refine import paint_refined
from esam_rt.sam.geometry import Geometry
from esam_rt.settings import Render

RIM = 1e-3  # logit of a cell whose own logit contradicts the map, because the cell was split off or joined


def render_labels(
    entities: GridEntities,
    logits_of: Callable[[NDArray[np.float32], NDArray[np.uint8]], NDArray[np.float32]],
    geometry: Geometry,
    points_norm_xy: NDArray[np.float32],
    image_hwc_rgb: NDArray[np.uint8] | None = None,
    settings: Render | None = None,
) -> NDArray[np.uint16]:
    """Draw the label map of an image.

    The logits of an entity are the maximum over the masks it was made of. They get the sign that the map has on the
    grid. Then they are interpolated bilinearly, or filtered with the photo as the guide.

    Args:
        entities: The entities.
        logits_of: Returns logits float32 [N, H, W] on the working grid for points [N, 2] and their ``mask_index`` [N].
        geometry: The place of the image in the model's input.
        points_norm_xy: All prompts of the image, float32 [P, 2] in [0, 1], x before y.
        image_hwc_rgb: The photo, uint8 [H, W, 3]. Without it boundaries do not follow the photo.
        settings: Numbers of rendering.

    Returns:
        uint16 [H, W]: i + 1 where entity i wins, 0 outside the entities.
    """
    wanted = sorted({source for sources in entities.sources for source in sources})
    row = {source: i for i, source in enumerate(wanted)}
    prompt, mask_index = np.array(wanted, np.intp).reshape(-1, 2).T
    logits = logits_of(points_norm_xy[prompt], mask_index.astype(np.uint8))
    grid_h, grid_w = geometry.grid_hw
    masks = unpack(entities.bits, entities.width)
    highest = np.full((grid_h, grid_w), -1, np.float32)
    crops, boxes = [], np.zeros((len(entities), 4), np.int32)
    for i, sources in enumerate(entities.sources):
        x0, y0, x1, y1 = (int(v) for v in entities.box_xyxy[i])
        x0, y0, x1, y1 = max(0, x0 - 1), max(0, y0 - 1), min(grid_w, x1 + 1), min(grid_h, y1 + 1)
        field = logits[[row[s] for s in sources], y0:y1, x0:x1].max(axis=0)
        inside = masks[i, y0:y1, x0:x1]
        crops.append(np.where(inside, np.maximum(field, RIM), np.minimum(field, -RIM)))
        boxes[i] = x0, y0, x1, y1
        np.maximum(highest[y0:y1, x0:x1], crops[i], out=highest[y0:y1, x0:x1])
    labels = np.zeros(geometry.orig_hw, np.uint16)
    # The logit of "no entity" is the negated highest one. Where three or more entities meet, all logits are negative
    # between the centers of the cells, and a fixed threshold would leave a gap.
    if image_hwc_rgb is not None:
        paint_refined(labels, image_hwc_rgb, entities, crops, boxes, -highest, geometry, settings or Render())
        return labels
    fields = np.concatenate([np.zeros(0, np.float32), *(c.ravel() for c in crops)])
    offset = np.cumsum([0, *(c.size for c in crops)], dtype=np.int64)[:-1]
    paint(labels, fields, offset, boxes, -highest, *geometry.cells_per_pixel)
    return labels
