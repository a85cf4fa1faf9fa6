"""Adapter to Roboflow's supervision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esam_rt.errors import MissingDependencyError

if TYPE_CHECKING:
    import supervision

    from esam_rt.entity_map import EntityMap


def detections(entities: EntityMap) -> supervision.Detections:
    """Convert an entity map to ``supervision.Detections``.

    Args:
        entities: The entities of one image.

    Returns:
        Boxes in pixels, masks bool [N, H, W], confidence [N], and class 0 for each entity.

    Raises:
        MissingDependencyError: The package ``supervision`` is not installed.
    """
    try:
        import supervision as sv
    except ImportError as e:
        raise MissingDependencyError("to_supervision() needs supervision: pip install supervision") from e
    count = len(entities)
    masks = np.stack(list(entities.masks())) if count else np.zeros((0, *entities.labels.shape), bool)
    return sv.Detections(
        xyxy=entities.box_xyxy.astype(np.float32),
        mask=masks,
        confidence=entities.score,
        class_id=np.zeros(count, int),
    )
