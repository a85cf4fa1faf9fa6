"""SAM as a pair of engines: a photo is encoded once, then prompted in batches."""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from esam_rt.engines import Engine, Kept
from esam_rt.engines.cuda.array_interface import is_gpu_array
from esam_rt.engines.cuda.gpu_image import GpuPhoto, GpuPhotos
from esam_rt.errors import EngineError, InputError, OutOfMemoryError
from esam_rt.masks import Level, MaskSet
from esam_rt.models import ModelRow
from esam_rt.settings import Filters

_log = logging.getLogger("esam_rt")

Photo: TypeAlias = NDArray[np.uint8] | GpuPhoto
Used = TypeVar("Used")

BATCH_FLOOR = 1  # prompts of one call
AHEAD = 2  # batches whose masks are still to come while the next is decoded: the GPU always has one to begin with
CELL_PX = 4  # pixels of the input a cell of the mask grid
PATCH_PX = 16  # pixels of the input a position of the embedding
IMAGE_SIDE = ("image_tokens", "image_keys", "image_values", "image_queries")  # the encoder's outputs for the decoder
PROMPT_SIDE = ("tokens", "images")  # the decoder's outputs for masks and logits
NO_POINT, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels of SAM's points
# Labels of one prompt, by points_per_prompt. SAM adds a padding to points without a box, to more than one as well: two
# would take three tokens. A model of single points was trained with foreground alone.
PROMPTS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((FOREGROUND,),),
    2: ((FOREGROUND, NO_POINT), (BACKGROUND, NO_POINT), (TOP_LEFT, BOTTOM_RIGHT)),
}


@dataclass(frozen=True)
class Geometry:
    """How a photo lies in the square input: scaled to the longest side, top left, padded right and below.

    photo_hw, resized_hw: pixels before and after scaling. grid_hw: cells of the working grid, the last row and column
    perhaps partly padding.
    """

    photo_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    grid_hw: tuple[int, int]

    @classmethod
    def of(cls, photo_hw: tuple[int, int], input_px: int) -> Geometry:
        """Geometry of a photo of photo_hw pixels for an input of input_px²."""
        scale = input_px / max(photo_hw)
        h, w = (min(input_px, max(1, int(side * scale + 0.5))) for side in photo_hw)
        return cls(photo_hw, (h, w), (-(-h // CELL_PX), -(-w // CELL_PX)))

    def to_input_px(self, points_01: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, 2] of [0, 1]² of the photo → pixels of the input, x before y, as SAM counts them."""
        h, w = self.resized_hw
        return np.asarray(points_01 * np.array([w, h], np.float32), np.float32)

    def to_cell_yx(self, points_01: NDArray[np.float32]) -> NDArray[np.int32]:
        """[N, 2] x, y of [0, 1]² → the cells that hold them, int32 [N, 2], row before column."""
        cells = np.floor(self.to_input_px(points_01)[:, ::-1] / CELL_PX).astype(np.int32)
        return np.clip(cells, 0, np.array(self.grid_hw, np.int32) - 1)

    def from_cell_xy(self, cells_xy: NDArray[np.floating]) -> NDArray[np.float32]:
        """Positions on the grid (centre of the first cell at 0, 0), x before y → [0, 1]² of the photo."""
        h, w = self.resized_hw
        points = (np.asarray(cells_xy, np.float64) + 0.5) * CELL_PX / np.array([w, h])
        return np.asarray(np.clip(points, 0, 1), np.float32)


@dataclass(frozen=True, eq=False)
class EncodedPhoto:
    """embedding: float32 [1, C, h, w]. image_side: the encoder's other outputs, which every decoder call is fed; they
    stay on the device."""

    embedding: NDArray[np.float32]
    geometry: Geometry
    image_side: Mapping[str, Kept] = field(default_factory=dict)

    def features_at(self, points_01: NDArray[np.float32]) -> NDArray[np.float32]:
        """The embedding sampled bilinearly at [N, 2] points of [0, 1]², x before y: float32 [N, C]."""
        position = self.geometry.to_input_px(points_01) / PATCH_PX - 0.5
        h, w = self.embedding.shape[2:]
        position = np.clip(position, 0, np.array([w, h], np.float32) - 1)
        low = np.floor(position).astype(np.intp)
        high = np.minimum(low + 1, [w - 1, h - 1])
        fx, fy = (position - low).T[:, None]
        e = self.embedding[0]
        top = e[:, low[:, 1], low[:, 0]] * (1 - fx) + e[:, low[:, 1], high[:, 0]] * fx
        bottom = e[:, high[:, 1], low[:, 0]] * (1 - fx) + e[:, high[:, 1], high[:, 0]] * fx
        return np.ascontiguousarray((top * (1 - fy) + bottom * fy).T, np.float32)


@dataclass(frozen=True)
class Engines:
    """The networks of a model, all of one backend on one device."""

    encoder: Engine
    decoder: Engine
    masks: Engine
    logits: Engine


class Sam:
    """The engines of one model. Stateless between photos, so threads and settings may share it.

    checkpoint_sha256: of the file that the engines were made of, hex. one_at_a_time: whether threads take turns at
    encoding photos and decoding batches, so that memory is needed for one of them only. overlaps: whether a batch's
    masks are fetched and sorted while the next is decoded, as a GPU wants it; on two CPU cores it gains nothing.
    gpu_photos: makes what takes photos on the GPU of the engines, for engines that run on one.
    """

    def __init__(
        self,
        row: ModelRow,
        engines: Engines,
        checkpoint_sha256: str,
        one_at_a_time: bool = False,
        overlaps: bool = False,
        gpu_photos: Callable[[], GpuPhotos] | None = None,
    ) -> None:
        self.row, self.engines, self.checkpoint_sha256 = row, engines, checkpoint_sha256
        self._batch = row.decode_batch
        self._turn: AbstractContextManager[object] = threading.Lock() if one_at_a_time else nullcontext()
        self._after = ThreadPoolExecutor(1, "esam-rt masks") if overlaps and not one_at_a_time else None
        self._new_gpu_photos = gpu_photos

    def photo(self, image_hwc_rgb: Any) -> Photo:
        """A photo uint8 [H, W, 3] in RGB: a NumPy array, or an array of another library, in place, by DLPack or
        `__cuda_array_interface__`. InputError for anything else, and for an array on a GPU where the engines do not run
        there."""
        if isinstance(image_hwc_rgb, GpuPhoto):
            return image_hwc_rgb
        if is_gpu_array(image_hwc_rgb):
            if self._gpu_photos is None:
                raise InputError(
                    "Photo: found an array on a GPU, expected one on the host, where the model runs; copy it there, or "
                    "use device cuda."
                )
            return self._gpu_photos.photo(image_hwc_rgb)
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
    def _gpu_photos(self) -> GpuPhotos | None:
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
            out = self.engines.encoder.infer({"image": image, "valid_hw_px": valid_hw_px}, keep=IMAGE_SIDE)
        return EncodedPhoto(out.pop("embedding"), geometry, out)

    def decode(
        self,
        photo: EncodedPhoto,
        points_01: NDArray[np.float32],
        first_point: int,
        filters: Filters,
        levels: tuple[Level, ...] = tuple(Level),
        labels: NDArray[np.integer] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> MaskSet:
        """High-confidence masks of N prompts, by level (E-SAM eq. 1).

        points_01: of [0, 1]² of the photo, x before y; [N, 2], a foreground point each, or [N, K, 2] with `labels`
        [N, K], K the row's points_per_prompt; of SAM: (1, -1) a foreground point, (0, -1) a background point, the
        second of no matter, or (2, 3) a box by its top left and bottom right corner. Of each prompt its masks at
        `levels` and its best one. Prompts are numbered from first_point. filters: complete. stopped: asked before each
        batch; EngineError once it says so. InputError for points that the model does not take.
        """
        points_xy_px, labels = self._prompts(photo.geometry, points_01, labels)
        h, w = photo.geometry.grid_hw
        side = self.row.input_px // PATCH_PX
        cells = np.arange(side * side).reshape(side, side)[: -(-h // 4), : 2 * -(-w // 8)]

        def decode(part: slice) -> dict[str, Any]:
            if stopped():
                raise EngineError("Decoding was stopped.")
            return self._decode(photo, points_xy_px[part], labels[part])

        def masks(part: slice, prompts: dict[str, Any]) -> MaskSet:
            score = prompts.pop("score")
            index = np.flatnonzero(score.max(axis=1) >= filters.score_min)
            if len(index) == 0:
                return MaskSet.empty(h, w)
            out = self.engines.masks.infer(
                {
                    **prompts,
                    "index": index,
                    "cells": cells,
                    "valid_hw": np.array([h, w], np.int64),
                    "stability_offset": np.array(filters.stability_offset, np.float32),
                }
            )
            out |= {"score": score[index], "point": index + first_point + part.start}
            return _select(out, photo.geometry, filters, levels)

        return MaskSet.concatenate([MaskSet.empty(h, w), *self._in_batches(len(points_xy_px), decode, masks)])

    def logits(
        self,
        photo: EncodedPhoto,
        points_01: NDArray[np.float32],
        output: NDArray[np.uint8],
        labels: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float32]:
        """Logits float32 [N, H, W] on the working grid of given outputs of given prompts; prompts as of `decode`."""
        points_xy_px, labels = self._prompts(photo.geometry, points_01, labels)
        h, w = photo.geometry.grid_hw
        result = np.empty((len(points_01), h, w), np.float32)

        def decode(part: slice) -> dict[str, Any]:
            return self._decode(photo, points_xy_px[part], labels[part])

        def fetch(part: slice, prompts: dict[str, Any]) -> None:
            del prompts["score"]
            feed = {**prompts, "level": output[part].astype(np.int64)}
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
        feed = {**photo.image_side, "points_xy_px": points_xy_px, "labels": labels}
        return self.engines.decoder.infer(feed, keep=PROMPT_SIDE)

    def _prompts(
        self, geometry: Geometry, points_01: NDArray[np.float32], labels: NDArray[np.integer] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The decoder's points [N, K, 2] in pixels of the input, and labels [N, K]; lone points are padded."""
        k = self.row.points_per_prompt
        points = np.asarray(points_01, np.float32)
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
        for engine in (self.engines.encoder, self.engines.decoder, self.engines.masks, self.engines.logits):
            engine.close()


def _select(out: dict[str, NDArray[Any]], geometry: Geometry, filters: Filters, levels: tuple[Level, ...]) -> MaskSet:
    """Sort the three masks of each prompt by area (eq. 1), filter, cut the bits to the working grid."""
    score, area, stability = out["score"], out["area"], out["stability"]
    rank = np.argsort(np.argsort(-area, axis=1, kind="stable"), axis=1)
    best = np.arange(3) == np.argmax(score, axis=1)[:, None]
    keep = (score >= filters.score_min) & (stability >= filters.stability_min) & (area >= filters.min_area)
    keep &= np.isin(rank, levels) | best
    row, output = np.nonzero(keep)
    h, w = geometry.grid_hw
    words = -(-w // 64)
    bits = out["bits"][row, output, :h, : words * 8]  # the copy that outlives the batch
    missing = words * 8 - bits.shape[2]
    if missing > 0:
        bits = np.pad(bits, ((0, 0), (0, 0), (0, missing)))
    return MaskSet(
        bits=np.ascontiguousarray(bits).view(np.uint64),
        width=w,
        area=area[row, output].astype(np.int32),
        box_xyxy=out["box_xyxy"][row, output].astype(np.int16),
        score=score[row, output].astype(np.float32),
        stability=stability[row, output].astype(np.float32),
        point=out["point"][row].astype(np.int32),
        level=rank[row, output].astype(np.uint8),
        output=output.astype(np.uint8),
        best=best[row, output],
    )


def _padded(photo: NDArray[np.uint8], geometry: Geometry, side: int) -> NDArray[np.uint8]:
    """The photo scaled, at the top left of a black square: uint8 [1, side, side, 3]."""
    h, w = geometry.resized_hw
    shrinks = max(geometry.photo_hw) > side
    padded = np.zeros((1, side, side, 3), np.uint8)
    padded[0, :h, :w] = cv2.resize(photo, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return padded


def check_photo(image_hwc_rgb: NDArray[np.uint8]) -> None:
    """InputError unless uint8 [H, W, 3] with at least one pixel."""
    found = f"{getattr(image_hwc_rgb, 'dtype', type(image_hwc_rgb).__name__)} {getattr(image_hwc_rgb, 'shape', '')}"
    if (
        not isinstance(image_hwc_rgb, np.ndarray)
        or image_hwc_rgb.dtype != np.uint8
        or image_hwc_rgb.ndim != 3
        or image_hwc_rgb.shape[2] != 3
        or 0 in image_hwc_rgb.shape
    ):
        raise InputError(f"Photo: expected a NumPy array uint8 [height, width, 3] in RGB, got {found}.")
