"""Promptable: the interface between the method and a promptable model."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import Level, MaskSet
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.images import Image
from esam_rt.sam.models import ModelSpec
from esam_rt.settings import Filters


class Promptable(Protocol):
    """A model that encodes an image once and answers prompts. ``Sam`` is one; see there for each method."""

    @property
    def model(self) -> ModelSpec:
        """The model's row in the table of models."""
        ...

    @property
    def checkpoint_sha256(self) -> str:
        """SHA-256 of the checkpoint, in hex."""
        ...

    @property
    def batch_size(self) -> int:
        """Prompts of one decoder call."""
        ...

    def check_image(self, image_hwc_rgb: Any) -> Image:
        """Check an image."""
        ...

    def encode(self, image_hwc_rgb: Any) -> EncodedImage:
        """Encode an image."""
        ...

    def decode(
        self,
        encoded: EncodedImage,
        points_norm_xy: NDArray[np.float32],
        first_point: int,
        filters: Filters | None,
        levels: tuple[Level, ...] = ...,
        labels: NDArray[np.integer] | None = ...,
        cancel: CancelToken | None = ...,
    ) -> MaskSet:
        """Return the masks of prompts."""
        ...

    def logits(
        self,
        encoded: EncodedImage,
        points_norm_xy: NDArray[np.float32],
        mask_index: NDArray[np.uint8],
        labels: NDArray[np.integer] | None = ...,
    ) -> NDArray[np.float32]:
        """Return the logits of masks."""
        ...

    def close(self) -> None:
        """Release the engines."""
        ...
