"""Adapter to Roboflow's supervision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.errors import MissingDependencyError

if TYPE_CHECKING:
    import supervision

    from esam_rt.entity_map import EntityMap


def detections(entities: EntityMap, compact: bool = True) -> supervision.Detections:
    """Convert an entity map to ``supervision.Detections``.

    Args:
        entities: The entities of one image.
        compact: Keep masks as ``supervision.CompactMask`` in place of an array.

    Returns:
        Boxes in pixels, masks, confidence [N], and class 0 for each entity. An array of masks is bool [N, H, W].
        Identities are in ``tracker_id``.

    Raises:
        MissingDependencyError: The package ``supervision`` is missing, or older than 0.28.
    """
    try:
        import supervision as sv
        from supervision.detection.compact_mask import CompactMask
    except ImportError as e:
        raise MissingDependencyError(
            "to_supervision() needs supervision 0.28: pip install 'esam-rt[supervision]'"
        ) from e
    return sv.Detections(
        xyxy=entities.box_xyxy.astype(np.float32).reshape(-1, 4),
        mask=_compact_masks(entities, CompactMask) if compact else _dense_masks(entities),
        confidence=entities.score,
        class_id=np.zeros(len(entities), int),
        tracker_id=entities.track_id,
    )


def _dense_masks(entities: EntityMap) -> NDArray[np.bool_]:
    masks = np.zeros((len(entities), *entities.labels.shape), bool)
    for i, (x0, y0, x1, y1) in enumerate(entities.box_xyxy.tolist()):
        masks[i, y0:y1, x0:x1] = entities.labels[y0:y1, x0:x1] == i + 1
    return masks


def _compact_masks(entities: EntityMap, compact_mask: Any) -> Any:
    """Run lengths of each box. Boxes of supervision include their last pixel."""
    shape = entities.labels.shape
    if len(entities) == 0:
        return compact_mask.from_dense(_dense_masks(entities), np.zeros((0, 4)), shape)
    masks = []
    for i, (x0, y0, x1, y1) in enumerate(entities.box_xyxy.tolist()):
        crop = entities.labels[y0:y1, x0:x1] == i + 1
        whole = np.array([[0, 0, x1 - x0 - 1, y1 - y0 - 1]])
        masks.append(compact_mask.from_dense(crop[None], whole, crop.shape).with_offset(x0, y0, shape))
    return compact_mask.merge(masks)
