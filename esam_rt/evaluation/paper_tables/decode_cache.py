"""A model and superpixels that remember the current photo, so that many rows of settings decode each prompt once."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_rt.masks import Level, MaskSet
from esam_rt.method.superpixels import SuperpixelMap, superpixels
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.mask_selection import Thresholds
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Filters, Superpixels

Prompt = tuple[bytes, bytes]
"""Points and labels of one prompt."""


class CachingSam(Sam):
    """A ``Sam`` that encodes a photo once and decodes each of its prompts once. Each window of a photo counts alone.

    Results equal those of the wrapped model. Masks are kept before the filters on area and stability, so rows that
    differ in those share them. Rows that differ in ``score_min`` or ``stability_offset`` decode their own masks.
    Call ``clear`` before each new photo. Not for use from several threads.

    Args:
        sam: The model to ask for missing results. Whoever loaded it closes it.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__(sam.model, sam.engines, sam.checkpoint_sha256)
        self.clear()

    def clear(self) -> None:
        """Forget the photo."""
        self._windows: dict[bytes, EncodedImage] = {}
        self._numbers: dict[int, int] = {}
        self._masks: dict[tuple[int, Prompt, float, float], MaskSet] = {}
        self._logits: dict[tuple[int, Prompt, int], NDArray[np.float32]] = {}

    def encode(self, image_hwc_rgb: Any) -> EncodedImage:
        """Encode the photo or a window of it, once since ``clear``."""
        image = self.check_image(image_hwc_rgb)
        key = _sha256(image.on_host((image.shape[0], image.shape[1])))
        if key not in self._windows:
            self._windows[key] = super().encode(image)
        return self._windows[key]

    def decode(
        self,
        encoded: EncodedImage,
        points_norm_xy: NDArray[np.float32],
        first_point: int,
        filters: Filters | None,
        levels: tuple[Level, ...] = tuple(Level),
        labels: NDArray[np.integer] | None = None,
        cancel: CancelToken | None = None,
    ) -> MaskSet:
        """Return what ``Sam.decode`` returns; only prompts that are not remembered reach the engines."""
        thresholds = Thresholds.of(filters, self.model)
        score_min, stability_offset = thresholds.score_min, thresholds.stability_offset
        window = self._number(encoded)
        keys = [(window, prompt, score_min, stability_offset) for prompt in _prompts(points_norm_xy, labels)]
        missing = _first_of_each(keys, self._masks)
        if missing:
            unfiltered = None
            if filters is not None:
                unfiltered = Filters(
                    score_min=score_min, stability_min=0.0, stability_offset=stability_offset, min_area=1
                )
            index = np.array(missing)
            asked = None if labels is None else labels[index]
            found = super().decode(encoded, points_norm_xy[index], 0, unfiltered, tuple(Level), asked, cancel)
            ends = np.searchsorted(found.prompt_index, np.arange(len(missing) + 1))
            for i, first, stop in zip(missing, ends[:-1], ends[1:], strict=True):
                self._masks[keys[i]] = found.select(np.arange(first, stop))
        parts = [self._masks[key] for key in keys]
        masks = MaskSet.concatenate([MaskSet.empty(*encoded.geometry.grid_hw), *parts])
        masks.prompt_index[:] = np.repeat(np.arange(len(parts)) + first_point, [len(part) for part in parts])
        keep = (masks.stability_score >= thresholds.stability_min) & (masks.area >= thresholds.min_area)
        return masks.select(keep & (np.isin(masks.level, levels) | masks.is_best))

    def logits(
        self,
        encoded: EncodedImage,
        points_norm_xy: NDArray[np.float32],
        mask_index: NDArray[np.uint8],
        labels: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        """Return what ``Sam.logits`` returns; only outputs that are not remembered reach the engines."""
        prompts = _prompts(points_norm_xy, labels)
        window = self._number(encoded)
        keys = [(window, *key) for key in zip(prompts, mask_index.tolist(), strict=True)]
        missing = _first_of_each(keys, self._logits)
        if missing:
            index = np.array(missing)
            asked = None if labels is None else labels[index]
            found = super().logits(encoded, points_norm_xy[index], mask_index[index], asked)
            self._logits.update(zip((keys[i] for i in missing), found, strict=True))
        return np.stack([np.empty(encoded.geometry.grid_hw, np.float32), *(self._logits[key] for key in keys)])[1:]

    def _number(self, encoded: EncodedImage) -> int:
        """Number of a window, in the order of use. Its embedding is kept until ``clear``, so its id is its own."""
        return self._numbers.setdefault(id(encoded.embedding), len(self._numbers))


def _sha256(image_hwc_rgb: NDArray[np.uint8]) -> bytes:
    """Hash of shape and pixels."""
    found = hashlib.sha256(str(image_hwc_rgb.shape).encode())
    found.update(np.ascontiguousarray(image_hwc_rgb).data)
    return found.digest()


def _prompts(points_norm_xy: NDArray[np.float32], labels: NDArray[np.integer] | None) -> list[Prompt]:
    labelled = [b""] * len(points_norm_xy) if labels is None else [row.tobytes() for row in labels]
    return list(zip((point.tobytes() for point in points_norm_xy), labelled, strict=True))


def _first_of_each(keys: list[Any], known: dict[Any, Any]) -> list[int]:
    """Indices of the keys that are not known, each key once."""
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    return sorted(i for key, i in first.items() if key not in known)


class CachingSuperpixels:
    """Superpixels that remember the maps of a photo and its windows, for each group of settings.

    Call ``clear`` before each new photo.
    """

    def __init__(self) -> None:
        self._maps: dict[tuple[bytes, Superpixels], SuperpixelMap] = {}

    def __call__(self, image_hwc_rgb: NDArray[np.uint8], geometry: Geometry, settings: Superpixels) -> SuperpixelMap:
        """Return what ``superpixels`` returns, computed once for each group of settings."""
        key = _sha256(image_hwc_rgb), settings
        if key not in self._maps:
            self._maps[key] = superpixels(image_hwc_rgb, geometry, settings)
        return self._maps[key]

    def clear(self) -> None:
        """Forget the photo."""
        self._maps.clear()
