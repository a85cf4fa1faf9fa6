"""Sam: a promptable model on engines. It encodes an image once and then answers prompts in batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esam_rt.engines import Engine
from esam_rt.engines.cuda.array_interface import is_gpu_array
from esam_rt.engines.cuda.gpu_image import GpuImage, GpuImages
from esam_rt.errors import InputError
from esam_rt.masks import Level, MaskSet
from esam_rt.networks import Networks
from esam_rt.sam.batching import BatchRunner
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.images import HostImage, Image, from_dlpack
from esam_rt.sam.mask_selection import Thresholds, select_masks
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.prompt_labels import BOTTOM_RIGHT, FOREGROUND, NO_POINT, PROMPTS, TOP_LEFT
from esam_rt.settings import Filters

# Outputs of the encoder that the decoder reads, and outputs of the decoder that the mask head and logits read.
IMAGE_FEATURES = ("image_tokens", "image_keys", "image_values", "image_queries")
PROMPT_FEATURES = ("tokens", "prompt_image_embeddings")

Engines: TypeAlias = Networks[Engine]


class Sam:
    """The engines of one model. It keeps nothing between images, so threads and settings may share it.

    Args:
        model: The model's row in the table of models.
        engines: The four networks, all of one backend on one device.
        checkpoint_sha256: SHA-256 of the checkpoint that the engines were made from, in hex.
        one_at_a_time: Threads take turns on the device, so that memory is needed for one call only.
        overlaps: A batch's masks are fetched while the next batch is decoded. This keeps a GPU busy.
        gpu_images: Makes the reader of images on the GPU, for engines that run there.
    """

    def __init__(
        self,
        model: ModelSpec,
        engines: Engines,
        checkpoint_sha256: str,
        one_at_a_time: bool = False,
        overlaps: bool = False,
        gpu_images: Callable[[], GpuImages] | None = None,
    ) -> None:
        self.model, self.engines, self.checkpoint_sha256 = model, engines, checkpoint_sha256
        self._batches = BatchRunner(model.decode_batch, one_at_a_time, overlaps)
        self._new_gpu_images = gpu_images

    @property
    def batch_size(self) -> int:
        """Prompts of one decoder call. It drops below the model's number if the device runs out of memory."""
        return self._batches.sizer.size

    @functools.cached_property
    def _gpu_images(self) -> GpuImages | None:
        return None if self._new_gpu_images is None else self._new_gpu_images()

    def check_image(self, image_hwc_rgb: Any) -> Image:
        """Check an image and take it in place, without a copy.

        Args:
            image_hwc_rgb: uint8 [H, W, 3] in RGB: a NumPy array, or an array of another library with DLPack or
                ``__cuda_array_interface__``.

        Raises:
            InputError: It is another kind of array, or it is on a GPU and the engines are not.
        """
        if isinstance(image_hwc_rgb, HostImage | GpuImage):
            return image_hwc_rgb
        if not is_gpu_array(image_hwc_rgb):
            return HostImage(from_dlpack(image_hwc_rgb))
        if self._gpu_images is None:
            raise InputError(
                "Photo: found an array on a GPU, expected one on the host, because the model runs there. "
                "Copy it there, or use device cuda."
            )
        return self._gpu_images.photo(image_hwc_rgb)

    def encode(self, image_hwc_rgb: Any) -> EncodedImage:
        """Scale, pad and encode an image.

        Args:
            image_hwc_rgb: What ``check_image`` takes, or what it returned.

        Raises:
            InputError: See ``check_image``.
        """
        image = self.check_image(image_hwc_rgb)
        geometry = Geometry.of((image.shape[0], image.shape[1]), self.model.input_px)
        with self._batches.turn:
            feed: dict[str, Any] = {
                "image": image.on_canvas(geometry.resized_hw, self.model.input_px),
                "valid_hw_px": np.array(geometry.resized_hw, np.int64),
            }
            out = self.engines.encoder.infer(feed, outputs_on_device=IMAGE_FEATURES)
        return EncodedImage(out.pop("embedding"), geometry, out)

    def predict(
        self,
        encoded: EncodedImage,
        *,
        points: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        labels: ArrayLike | None = None,
    ) -> MaskSet:
        """Return all three masks of each prompt, without any filter.

        Example::

            encoded = sam.encode(image)
            masks = sam.predict(encoded, boxes=[[10, 20, 200, 180]])
            best = masks.best_level().to_bool()[0]

        Args:
            encoded: The image.
            points: One point for each prompt, [N, 2], x before y, in pixels of the image.
            boxes: One box for each prompt, [N, 4], x0, y0, x1, y1, in pixels of the image.
            labels: With ``points``: 1 for a foreground point, 0 for a background point, [N]. Default: all foreground.

        Returns:
            3 N masks on the working grid, prompt by prompt; ``prompt_index`` is 0 to N - 1.

        Raises:
            InputError: Not exactly one of ``points`` and ``boxes`` is given, an array has another shape, or the model
                does not accept such prompts.
        """
        if (points is None) == (boxes is None):
            raise InputError("Prompts: expected either points or boxes.")
        if boxes is not None:
            if labels is not None:
                raise InputError("Prompts: labels belong to points, found them with boxes. Leave them out.")
            corners = _prompt_array("boxes", boxes, 4).reshape(-1, 2, 2)
            numbers = np.tile((TOP_LEFT, BOTTOM_RIGHT), (len(corners), 1))
            return self.decode(encoded, encoded.geometry.from_pixels(corners), 0, None, labels=numbers)
        lone = encoded.geometry.from_pixels(_prompt_array("points", points, 2))
        if labels is None:
            return self.decode(encoded, lone, 0, None)
        given = np.asarray(labels)
        if given.shape != lone.shape[:1]:
            raise InputError(f"Prompts: expected {len(lone)} labels, one for each point, got {list(given.shape)}.")
        padded, numbers = self._padded(lone, given)
        return self.decode(encoded, padded, 0, None, labels=numbers)

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
        """Return the high-confidence masks of N prompts, sorted into levels by area (E-SAM eq. 1).

        Args:
            encoded: The image.
            points_norm_xy: Points in [0, 1] of the image, x before y: [N, 2], one foreground point for each prompt, or
                [N, K, 2] with ``labels``; K is the model's ``points_per_prompt``.
            first_point: The number of the first prompt in ``prompt_index``.
            filters: The model's own numbers replace ``None`` in it. ``None`` keeps every mask.
            levels: Levels to return. The best mask of each prompt is returned too.
            labels: [N, K] as SAM numbers them: (1, -1) a foreground point, (0, -1) a background point, (2, 3) the top
                left and the bottom right corner of a box. The second point of a point prompt is ignored.
            cancel: It is checked before each batch.

        Raises:
            InputError: The model does not accept such prompts.
            DecodingCancelledError: ``cancel`` was set.
        """
        geometry = encoded.geometry
        points_xy_px, label_nk = self._prompts(geometry, points_norm_xy, labels)
        thresholds = Thresholds.of(filters, self.model)
        mask_feed: dict[str, Any] = {
            "cells": geometry.embedding_positions(self.model.input_px),
            "valid_hw": np.array(geometry.grid_hw, np.int64),
            "stability_offset": np.array([thresholds.stability_offset], np.float32),
        }

        def decode(part: slice) -> dict[str, Any]:
            if cancel is not None:
                cancel.check()
            return self._decode(encoded, points_xy_px[part], label_nk[part])

        def fetch(part: slice, decoded: dict[str, Any]) -> MaskSet:
            score = decoded.pop("predicted_iou")
            index = np.flatnonzero(score.max(axis=1) >= thresholds.score_min)
            if len(index) == 0:
                return MaskSet.empty(*geometry.grid_hw)
            out = self.engines.mask_head.infer({**decoded, **mask_feed, "index": index})
            out |= {"predicted_iou": score[index], "prompt_index": index + first_point + part.start}
            return select_masks(out, geometry, thresholds, levels)

        batches = self._batches.run(len(points_xy_px), decode, fetch)
        return MaskSet.concatenate([MaskSet.empty(*geometry.grid_hw), *batches])

    def logits(
        self,
        encoded: EncodedImage,
        points_norm_xy: NDArray[np.float32],
        mask_index: NDArray[np.uint8],
        labels: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        """Return the logits of one mask of each prompt.

        Args:
            encoded: The image.
            points_norm_xy: See ``decode``.
            mask_index: The decoder's output to draw, 0 to 2 for each prompt, [N].
            labels: See ``decode``.

        Returns:
            float32 [N, H, W] on the working grid.

        Raises:
            InputError: The model does not accept such prompts.
        """
        points_xy_px, label_nk = self._prompts(encoded.geometry, points_norm_xy, labels)
        h, w = encoded.geometry.grid_hw
        result = np.empty((len(points_xy_px), h, w), np.float32)

        def decode(part: slice) -> dict[str, Any]:
            return self._decode(encoded, points_xy_px[part], label_nk[part])

        def fetch(part: slice, decoded: dict[str, Any]) -> None:
            del decoded["predicted_iou"]
            feed = {**decoded, "mask_index": mask_index[part].astype(np.int64)}
            result[part] = self.engines.logits.infer(feed)["logits"][:, :h, :w]

        self._batches.run(len(points_xy_px), decode, fetch)
        return result

    def _decode(
        self, encoded: EncodedImage, points_xy_px: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Run the decoder on one batch: `predicted_iou`, and PROMPT_FEATURES, which stay on the device."""
        feed = {**encoded.image_features, "points_xy_px": points_xy_px, "labels": labels}
        return self.engines.decoder.infer(feed, outputs_on_device=PROMPT_FEATURES)

    def _prompts(
        self, geometry: Geometry, points_norm_xy: NDArray[np.float32], labels: NDArray[np.integer] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Check prompts: points [N, K, 2] in pixels of the input, and labels [N, K]."""
        k = self.model.points_per_prompt
        points = np.asarray(points_norm_xy, np.float32)
        if labels is None:
            if points.ndim != 2 or points.shape[1] != 2:
                raise InputError(f"Prompts: expected points [N, 2], got {list(points.shape)}; give labels with boxes.")
            points, labels = self._padded(points, np.full(len(points), FOREGROUND))
        labels = np.asarray(labels)
        shapes_fit = labels.ndim == 2 and points.shape == (*labels.shape, 2)
        if not shapes_fit or not {tuple(row) for row in labels.tolist()} <= set(PROMPTS[k]):
            known = " or ".join(map(str, PROMPTS[k]))
            raise InputError(
                f"Prompts: model {self.model.name} expects points [N, {k}, 2] with labels {known}; "
                f"got {list(points.shape)} with labels {list(labels.shape)}: {labels.tolist()!s:.80}."
            )
        return geometry.to_input_px(points), labels.astype(np.int64)

    def _padded(
        self, points_n2: NDArray[np.float32], labels_n: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
        """Add the padding that follows a lone point: points [N, K, 2] and labels [N, K]."""
        n, k = len(points_n2), self.model.points_per_prompt
        points = np.concatenate([points_n2[:, None], np.zeros((n, k - 1, 2), np.float32)], axis=1)
        return points, np.concatenate([labels_n[:, None], np.full((n, k - 1), NO_POINT)], axis=1)

    def close(self) -> None:
        """Close the engines."""
        self._batches.close()
        for engine in self.engines:
            engine.close()


def _prompt_array(name: str, values: ArrayLike | None, columns: int) -> NDArray[np.float64]:
    """Read prompts [N, columns] as numbers; InputError for anything else."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as e:
        raise InputError(f"Prompts: expected {name} [N, {columns}] in pixels, found no array of numbers: {e}") from e
    if array.ndim != 2 or array.shape[1] != columns or not np.isfinite(array).all():
        raise InputError(f"Prompts: expected {name} [N, {columns}] in pixels, all finite, got {list(array.shape)}.")
    return array
