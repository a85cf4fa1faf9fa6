"""EncodedImage: an image's embedding and what the decoder needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from esam_rt.engines import DeviceTensor
from esam_rt.sam.geometry import PATCH_PX, Geometry
from esam_rt.sam.images import Image


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The encoder's outputs for one image.

    Attributes:
        embedding: float32 [1, C, h, w], on the host.
        geometry: The place of the image in the model's input.
        image_features: The encoder's other outputs by name. They stay on the device and are fed to each decoder call.
        image: The image itself, if ``EntitySegmenter.encode`` made this. Superpixels need it.
    """

    embedding: NDArray[np.float32]
    geometry: Geometry
    image_features: Mapping[str, DeviceTensor] = field(default_factory=dict)
    image: Image | None = None

    def features_at(self, points_norm_xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sample the embedding bilinearly.

        Args:
            points_norm_xy: Points [N, 2] in [0, 1] of the image, x before y.

        Returns:
            float32 [N, C].
        """
        position = self.geometry.to_input_px(points_norm_xy) / PATCH_PX - 0.5
        h, w = self.embedding.shape[2:]
        position = np.clip(position, 0, np.array([w, h], np.float32) - 1)
        low = np.floor(position).astype(np.intp)
        high = np.minimum(low + 1, [w - 1, h - 1])
        fx, fy = (position - low).T[:, None]
        e = self.embedding[0]
        top = e[:, low[:, 1], low[:, 0]] * (1 - fx) + e[:, low[:, 1], high[:, 0]] * fx
        bottom = e[:, high[:, 1], low[:, 0]] * (1 - fx) + e[:, high[:, 1], high[:, 0]] * fx
        return np.ascontiguousarray((top * (1 - fy) + bottom * fy).T, np.float32)
