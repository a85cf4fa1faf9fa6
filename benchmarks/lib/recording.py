"""The decoder's answers for a photo, recorded: input for the modules on a grid as fine as that of SAM's own models.

`tiny` has 128 cells on the longer side of a photo, SAM's models have 256. The logits of `tiny` are enlarged bilinearly
before they are thresholded, filtered and packed. The masks therefore have the size of SAM's. Their number and their
overlaps are those of `tiny`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.function_engine import FunctionEngine
from esam_rt.kernels.bits import areas_and_boxes, pack
from esam_rt.masks import Level, MaskSet
from esam_rt.method.emr import refine_entities
from esam_rt.method.mmg import multi_level_masks
from esam_rt.method.prompt_set import PromptSet
from esam_rt.method.superpixels import SuperpixelMap, superpixels
from esam_rt.method.usr import new_prompts
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import PROMPT_FEATURES, Engines, Sam
from esam_rt.settings import Settings
from esam_rt.storage.cache_dir import cache_folder

INPUT_PX = 1024
OUTPUTS = 3
FORMAT = "1"  # raise it if the same photo gives another recording


@dataclass(frozen=True, eq=False)
class Recording:
    """The recording of one photo.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        photo: The enlarged embedding.
        pixels: The superpixels.
        coarse: Masks of the coarse grid's prompts.
        fine: Masks of the fine grid's prompts.
        additional: The best mask of each prompt of USR.
        settings: The settings of the recording.
    """

    image: NDArray[np.uint8]
    photo: EncodedImage
    pixels: SuperpixelMap
    coarse: MaskSet
    fine: MaskSet
    additional: MaskSet
    settings: Settings

    def gallery(self) -> PromptSet:
        """Make a gallery as the segmenter does. It looks masks up instead of decoding."""
        index_of = {tuple(point): i for i, point in enumerate(point_grid(self.settings.prompts.fine_side).tolist())}

        def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
            place = np.full(len(index_of), -1, np.int32)
            place[[index_of[tuple(point)] for point in points_norm_xy.tolist()]] = np.arange(len(points_norm_xy))
            found = self.fine.select(place[self.fine.prompt_index] >= 0)
            return replace(found, prompt_index=place[found.prompt_index])

        return PromptSet.grid(self.settings.prompts.fine_side, self.photo.geometry, decode)


class EnlargedSam(Sam):
    """A model whose masks are enlarged to those of a model with twice its input."""

    def __init__(self, sam: Sam) -> None:
        super().__init__(replace(sam.model, input_px=INPUT_PX), _enlarged(sam.engines), sam.checkpoint_sha256)
        self._own = sam

    def encode(self, image_hwc_rgb: NDArray[np.uint8]) -> EncodedImage:
        """Encode a photo and enlarge its embedding."""
        photo = self._own.encode(image_hwc_rgb)
        enlarged = _doubled(photo.embedding[0].transpose(1, 2, 0)).transpose(2, 0, 1)[None]
        return EncodedImage(enlarged, Geometry.of(image_hwc_rgb.shape[:2], INPUT_PX), photo.image_features)


def _doubled(values_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
    h, w = values_hwc.shape[:2]
    return np.asarray(cv2.resize(values_hwc, (2 * w, 2 * h), interpolation=cv2.INTER_LINEAR), np.float32)


def _enlarged(engines: Engines) -> Engines:
    """Make engines that take points in pixels of INPUT_PX and return masks and logits on its grid."""

    def decode(feed: Mapping[str, Any]) -> dict[str, Any]:
        halved = {**feed, "points_xy_px": feed["points_xy_px"] / 2}
        out = engines.decoder.infer(halved, outputs_on_device=PROMPT_FEATURES)
        return {**out, "count": len(out["predicted_iou"])}

    def fields_of(feed: Mapping[str, Any], level: NDArray[np.int64]) -> NDArray[np.float32]:
        small = engines.logits.infer({**{name: feed[name] for name in PROMPT_FEATURES}, "mask_index": level})["logits"]
        return np.stack([_doubled(field) for field in small])

    def masks(feed: Mapping[str, Any]) -> dict[str, Any]:
        h, w = feed["valid_hw"]
        logits = np.stack(
            [fields_of(feed, np.full(feed["count"], k))[feed["index"], :h, :w] for k in range(OUTPUTS)], axis=1
        )
        inside, surely, perhaps = (logits > edge for edge in (0, feed["stability_offset"], -feed["stability_offset"]))
        bits = pack(inside.reshape(-1, h, w))
        area, box = areas_and_boxes(bits)
        return {
            "stability_score": surely.sum((2, 3)) / np.maximum(perhaps.sum((2, 3)), 1),
            "area": area.reshape(-1, OUTPUTS),
            "box_xyxy": box.reshape(-1, OUTPUTS, 4),
            "bits": bits.view(np.uint8).reshape(-1, OUTPUTS, h, bits.shape[2] * 8),
        }

    def logits(feed: Mapping[str, Any]) -> dict[str, Any]:
        return {"logits": fields_of(feed, feed["mask_index"])}

    return Engines(engines.encoder, FunctionEngine(decode), FunctionEngine(masks), FunctionEngine(logits))


def record(sam: Sam, image: NDArray[np.uint8], settings: Settings) -> Recording:
    """Decode every prompt of both grids, and the prompts of USR after MMG and EMR."""
    enlarged = EnlargedSam(sam)
    filters = settings.filters
    photo = enlarged.encode(image)
    pixels = superpixels(image, photo.geometry, settings.superpixels)
    coarse_points, fine_points = (point_grid(n) for n in (settings.prompts.coarse_side, settings.prompts.fine_side))
    coarse = enlarged.decode(photo, coarse_points, 0, filters)
    fine = enlarged.decode(photo, fine_points, 0, filters, (Level.OBJECT,))
    recording = Recording(image, photo, pixels, coarse, fine, MaskSet.empty(*photo.geometry.grid_hw), settings)
    levels = multi_level_masks(coarse, pixels, settings.mmg)
    exact = settings.emr.with_changes(gallery="exact")
    entities = refine_entities(levels.object, recording.gallery(), photo, pixels, exact, filters.min_area)
    parts = MaskSet.concatenate([levels.part, levels.subpart])
    points = new_prompts(entities, pixels, parts, photo.geometry, settings.usr, filters.min_area)
    additional = enlarged.decode(photo, points, len(coarse_points), filters, ()).best_level()
    return replace(recording, additional=additional)


def recorded(sam: Sam, name: str, image: NDArray[np.uint8], base: Settings, folder: Path | None = None) -> Recording:
    """Return the recording of a photo, read from a file if it was recorded before.

    Args:
        sam: The model.
        name: The photo's name.
        image: The photo, uint8 [H, W, 3].
        base: Settings. Numbers that are not set are the model's own.
        folder: Folder of recordings. Default: a folder in the cache.

    Returns:
        The recording. ``additional`` answers the prompts that USR had when the photo was recorded.
    """
    settings = base.with_model_defaults(sam.model.default_thresholds())
    what = [FORMAT, sam.checkpoint_sha256, repr(settings.prompts), repr(settings.filters), str(image.shape)]
    key = hashlib.sha256("|".join(what).encode() + image.tobytes()).hexdigest()[:16]
    path = (folder or cache_folder() / "recordings") / f"{Path(name).stem}-{key}.npz"
    if not path.is_file():
        _write(path, record(sam, image, settings))
    return _read(path, image, settings)


def _write(path: Path, recording: Recording) -> None:
    arrays: dict[str, NDArray[Any]] = {"embedding": recording.photo.embedding}
    for part in ("coarse", "fine", "additional"):
        masks: MaskSet = getattr(recording, part)
        arrays |= {f"{part}.{f.name}": np.asarray(getattr(masks, f.name)) for f in fields(masks)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        np.savez_compressed(file, **arrays)
    Path(file.name).replace(path)


def _read(path: Path, image: NDArray[np.uint8], settings: Settings) -> Recording:
    geometry = Geometry.of(image.shape[:2], INPUT_PX)
    with np.load(path) as arrays:
        coarse, fine, additional = (
            MaskSet(**{f.name: arrays[f"{part}.{f.name}"][()] for f in fields(MaskSet)})
            for part in ("coarse", "fine", "additional")
        )
        photo = EncodedImage(arrays["embedding"], geometry)
    pixels = superpixels(image, geometry, settings.superpixels)
    return Recording(image, photo, pixels, coarse, fine, additional, settings)
