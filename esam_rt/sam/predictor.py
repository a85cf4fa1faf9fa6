"""SAM on engines: encode an image once, then prompt it in batches."""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from esam_rt.engines import Engine
from esam_rt.engines.cuda.array_interface import is_gpu_array
from esam_rt.engines.cuda.gpu_image import GpuImage, GpuImages
from esam_rt.errors import EngineError, InputError, OutOfMemoryError
from esam_rt.masks import Level, MaskSet
from esam_rt.sam.encoded_image import EncodedPhoto
from esam_rt.sam.geometry import PATCH_PX, Geometry
from esam_rt.sam.images import Photo, _padded, check_photo
from esam_rt.sam.mask_selection import _select
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.prompt_labels import FOREGROUND, NO_POINT, PROMPTS
from esam_rt.settings import Filters

_log = logging.getLogger("esam_rt")
Used = TypeVar("Used")
BATCH_FLOOR = 1  # prompts of one call
AHEAD = 2  # batches whose masks are still to come while the next is decoded: the GPU always has one to begin with
IMAGE_FEATURES = (
    "image_tokens",
    "image_keys",
    "image_values",
    "image_queries",
)  # the encoder's outputs for the decoder
PROMPT_FEATURES = ("tokens", "prompt_image_embeddings")  # the decoder's outputs for masks and logits


@dataclass(frozen=True)
class Engines:
    """The networks of a model, all of one backend on one device."""

    encoder: Engine
    decoder: Engine
    mask_head: Engine
    logits: Engine


class Sam:
    """The engines of one model. Stateless between photos, so threads and settings may share it.

    checkpoint_sha256: of the file that the engines were made of, hex. one_at_a_time: whether threads take turns at
    encoding photos and decoding batches, so that memory is needed for one of them only. overlaps: whether a batch's
    masks are fetched and sorted while the next is decoded, as a GPU wants it; on two CPU cores it gains nothing.
    gpu_images: makes what takes photos on the GPU of the engines, for engines that run on one.
    """

    def __init__(
        self,
        row: ModelSpec,
        engines: Engines,
        checkpoint_sha256: str,
        one_at_a_time: bool = False,
        overlaps: bool = False,
        gpu_images: Callable[[], GpuImages] | None = None,
    ) -> None:
        self.row, self.engines, self.checkpoint_sha256 = row, engines, checkpoint_sha256
        self._batch = row.decode_batch
        self._turn: AbstractContextManager[object] = threading.Lock() if one_at_a_time else nullcontext()
        self._after = ThreadPoolExecutor(1, "esam-rt masks") if overlaps and not one_at_a_time else None
        self._new_gpu_photos = gpu_images

    def photo(self, image_hwc_rgb: Any) -> Photo:
        """A photo uint8 [H, W, 3] in RGB: a NumPy array, or an array of another library, in place, by DLPack or
        `__cuda_array_interface__`. InputError for anything else, and for an array on a GPU where the engines do not run
        there."""
        if isinstance(image_hwc_rgb, GpuImage):
            return image_hwc_rgb
        if is_gpu_array(image_hwc_rgb):
            if self._gpu_images is None:
                raise InputError(
                    "Photo: found an array on a GPU, expected one on the host, where the model runs; copy it there, or "
                    "use device cuda."
                )
            return self._gpu_images.photo(image_hwc_rgb)
        if not isinstance(image_hwc_rgb, np.ndarray) and hasattr(image_hwc_rgb, "__dlpack__"):
            try:
                image_hwc_rgb = np.from_dlpack(image_hwc_rgb)
            except (BufferError, TypeError, ValueError, RuntimeError) as e:
                raise InputError(
                    f"Photo: expected an array uint8 [height, width, 3], found one that NumPy cannot read: {e}"
                ) from e
        check_photo(image_hwc_rgb)
        return np.asarray(image_hwc_rgb)

    @functools.cached_property
    def _gpu_images(self) -> GpuImages | None:
        return None if self._new_gpu_photos is None else self._new_gpu_photos()

    def encode(self, image_hwc_rgb: Any) -> EncodedPhoto:
        """Scale, pad and encode a photo; see `photo`."""
        photo = self.photo(image_hwc_rgb)
        side = self.row.input_px
        geometry = Geometry.of((photo.shape[0], photo.shape[1]), side)
        image: Any = _padded(photo, geometry, side) if isinstance(photo, np.ndarray) else None
        valid_hw_px = np.array(geometry.resized_hw, np.int64)
        with self._turn:
            if not isinstance(photo, np.ndarray):
                image = photo.on_canvas(geometry.resized_hw, side)
            out = self.engines.encoder.infer(
                {"image": image, "valid_hw_px": valid_hw_px}, outputs_on_device=IMAGE_FEATURES
            )
        return EncodedPhoto(out.pop("embedding"), geometry, out)

    def decode(
        self,
        photo: EncodedPhoto,
        points_norm_xy: NDArray[np.float32],
        first_point: int,
        filters: Filters,
        levels: tuple[Level, ...] = tuple(Level),
        labels: NDArray[np.integer] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> MaskSet:
        """High-confidence masks of N prompts, by level (E-SAM eq. 1).

        points_norm_xy: of [0, 1]² of the photo, x before y; [N, 2], a foreground point each, or [N, K, 2] with `labels`
        [N, K], K the row's points_per_prompt; of SAM: (1, -1) a foreground point, (0, -1) a background point, the
        second of no matter, or (2, 3) a box by its top left and bottom right corner. Of each prompt its masks at
        `levels` and its best one. Prompts are numbered from first_point. filters: complete. stopped: asked before each
        batch; EngineError once it says so. InputError for points that the model does not take.
        """
        points_xy_px, labels = self._prompts(photo.geometry, points_norm_xy, labels)
        h, w = photo.geometry.grid_hw
        side = self.row.input_px // PATCH_PX
        cells = np.arange(side * side).reshape(side, side)[: -(-h // 4), : 2 * -(-w // 8)]

        def decode(part: slice) -> dict[str, Any]:
            if stopped():
                raise EngineError("Decoding was stopped.")
            return self._decode(photo, points_xy_px[part], labels[part])

        def masks(part: slice, prompts: dict[str, Any]) -> MaskSet:
            score = prompts.pop("predicted_iou")
            index = np.flatnonzero(score.max(axis=1) >= filters.score_min)
            if len(index) == 0:
                return MaskSet.empty(h, w)
            out = self.engines.mask_head.infer(
                {
                    **prompts,
                    "index": index,
                    "cells": cells,
                    "valid_hw": np.array([h, w], np.int64),
                    "stability_offset": np.array(filters.stability_offset, np.float32),
                }
            )
            out |= {"predicted_iou": score[index], "prompt_index": index + first_point + part.start}
            return _select(out, photo.geometry, filters, levels)

        return MaskSet.concatenate([MaskSet.empty(h, w), *self._in_batches(len(points_xy_px), decode, masks)])

    def logits(
        self,
        photo: EncodedPhoto,
        points_norm_xy: NDArray[np.float32],
        output: NDArray[np.uint8],
        labels: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        """Logits float32 [N, H, W] on the working grid of given outputs of given prompts; prompts as of `decode`."""
        points_xy_px, labels = self._prompts(photo.geometry, points_norm_xy, labels)
        h, w = photo.geometry.grid_hw
        result = np.empty((len(points_norm_xy), h, w), np.float32)

        def decode(part: slice) -> dict[str, Any]:
            return self._decode(photo, points_xy_px[part], labels[part])

        def fetch(part: slice, prompts: dict[str, Any]) -> None:
            del prompts["predicted_iou"]
            feed = {**prompts, "mask_index": output[part].astype(np.int64)}
            result[part] = self.engines.logits.infer(feed)["logits"][:, :h, :w]

        self._in_batches(len(points_xy_px), decode, fetch)
        return result

    def _in_batches(
        self, count: int, decode: Callable[[slice], dict[str, Any]], use: Callable[[slice, dict[str, Any]], Used]
    ) -> list[Used]:
        """Decode `count` prompts part by part; what `use` makes of each part, in order. Where the device is out of
        memory the parts are halved, for all photos that follow too, down to BATCH_FLOOR; then its OutOfMemoryError is
        raised."""
        results: list[Used] = []
        pending: deque[tuple[slice, Future[Used]]] = deque()
        start, batch, ahead = 0, self._batch, AHEAD if self._after else 0
        try:
            while start < count or pending:
                tried = slice(start, min(start + batch, count))
                try:
                    if start < count:
                        with self._turn:
                            pending.append((tried, self._submit(use, tried, decode(tried))))
                        start = tried.stop
                    while pending and (len(pending) > ahead or start == count):
                        tried, used = pending[0]
                        results.append(used.result())
                        pending.popleft()
                except OutOfMemoryError as e:
                    wait([used for _, used in pending])  # then their memory is free
                    if pending and pending[0][0] is tried:
                        pending.clear()
                    start, batch = tried.start, self._halved(tried.stop - tried.start, batch, e)
            return results
        finally:
            wait([used for _, used in pending])

    def _submit(self, use: Callable[[slice, dict[str, Any]], Used], part: slice, out: dict[str, Any]) -> Future[Used]:
        """Use what was decoded, later where that overlaps."""
        if self._after is not None:
            return self._after.submit(use, part, out)
        used: Future[Used] = Future()
        used.set_result(use(part, out))
        return used

    def _halved(self, size: int, batch: int, error: OutOfMemoryError) -> int:
        """What to try after a part of `size` prompts was too much; the error where nothing less is left."""
        smaller = size // 2
        if smaller < BATCH_FLOOR:
            raise error
        if size == batch:  # a full one, not what was left at the end
            if self._batch == self.row.decode_batch:
                _log.warning("%s Going on with at most %d prompts a call instead of %d.", error, smaller, batch)
            self._batch = min(self._batch, smaller)
        return smaller

    def _decode(
        self, photo: EncodedPhoto, points_xy_px: NDArray[np.float32], labels: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Of a batch of prompts: `score`, and `tokens` and `images`, which stay on the device."""
        feed = {**photo.image_features, "points_xy_px": points_xy_px, "labels": labels}
        return self.engines.decoder.infer(feed, outputs_on_device=PROMPT_FEATURES)

    def _prompts(
        self, geometry: Geometry, points_norm_xy: NDArray[np.float32], labels: NDArray[np.integer] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The decoder's points [N, K, 2] in pixels of the input, and labels [N, K]; lone points are padded."""
        k = self.row.points_per_prompt
        points = np.asarray(points_norm_xy, np.float32)
        if labels is None:
            if points.ndim != 2 or points.shape[1] != 2:
                raise InputError(f"Prompts: expected points [N, 2], got {list(points.shape)}; give labels with boxes.")
            points = np.concatenate([points[:, None], np.zeros((len(points), k - 1, 2), np.float32)], axis=1)
            labels = np.tile((FOREGROUND, NO_POINT)[:k], (len(points), 1))
        labels = np.asarray(labels)
        shapes_fit = labels.ndim == 2 and points.shape == (*labels.shape, 2)
        if not shapes_fit or not {tuple(row) for row in labels.tolist()} <= set(PROMPTS[k]):
            known = " or ".join(map(str, PROMPTS[k]))
            raise InputError(
                f"Prompts: model {self.row.name} expects points [N, {k}, 2] with labels {known}; "
                f"got {list(points.shape)} with labels {list(labels.shape)}: {labels.tolist()!s:.80}."
            )
        return geometry.to_input_px(points), labels.astype(np.int64)

    def close(self) -> None:
        """Close the engines."""
        if self._after is not None:
            self._after.shutdown()
        for engine in (self.engines.encoder, self.engines.decoder, self.engines.mask_head, self.engines.logits):
            engine.close()
