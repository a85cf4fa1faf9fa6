"""What the decoder says of photos, recorded: input for the modules, on a grid as fine as that of SAM's own models.

`tiny` has 128 cells on the longer side of a photo, SAM's models 256. Its logits are enlarged bilinearly before they are
thresholded, filtered and packed, so the masks have SAM's size; how many there are and how they overlap stays tiny's.
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

from esam_rt.evaluation.paper_tables.decode_cache import EngineOf
from esam_rt.kernels.bits import areas_and_boxes, pack
from esam_rt.masks import Level, MaskSet
from esam_rt.method.emr import refine_entities
from esam_rt.method.gallery import Gallery
from esam_rt.method.mmg import multi_level_masks
from esam_rt.method.superpixels import SuperpixelMap, superpixels
from esam_rt.method.usr import new_prompts
from esam_rt.sam.encoded_image import EncodedPhoto
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import PROMPT_FEATURES, Engines, Sam
from esam_rt.settings import Settings
from esam_rt.storage.cache_dir import cache_folder

INPUT_PX = 1024
OUTPUTS = 3
FORMAT = "1"  # raised whenever the same photo gives another recording


@dataclass(frozen=True, eq=False)
class Recording:
    """One photo. image: uint8 [H, W, 3]. coarse, fine: masks of the two grids; additional: of the prompts of USR, the
    best of each."""

    image: NDArray[np.uint8]
    photo: EncodedPhoto
    pixels: SuperpixelMap
    coarse: MaskSet
    fine: MaskSet
    additional: MaskSet
    settings: Settings

    def gallery(self) -> Gallery:
        """As the segmenter makes it; decodes by looking up."""
        index_of = {tuple(point): i for i, point in enumerate(point_grid(self.settings.prompts.fine_side).tolist())}

        def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
            place = np.full(len(index_of), -1, np.int32)
            place[[index_of[tuple(point)] for point in points_norm_xy.tolist()]] = np.arange(len(points_norm_xy))
            found = self.fine.select(place[self.fine.prompt_index] >= 0)
            return replace(found, prompt_index=place[found.prompt_index])

        return Gallery(self.settings.prompts.fine_side, self.photo.geometry, decode)


class EnlargedSam(Sam):
    """A model with the masks of another of twice its input."""

    def __init__(self, sam: Sam) -> None:
        super().__init__(replace(sam.row, input_px=INPUT_PX), _enlarged(sam.engines), sam.checkpoint_sha256)
        self._own = sam

    def encode(self, image_hwc_rgb: NDArray[np.uint8]) -> EncodedPhoto:
        """The embedding is enlarged too."""
        photo = self._own.encode(image_hwc_rgb)
        enlarged = _doubled(photo.embedding[0].transpose(1, 2, 0)).transpose(2, 0, 1)[None]
        return EncodedPhoto(enlarged, Geometry.of(image_hwc_rgb.shape[:2], INPUT_PX), photo.image_features)


def _doubled(values_hwc: NDArray[np.float32]) -> NDArray[np.float32]:
    h, w = values_hwc.shape[:2]
    return np.asarray(cv2.resize(values_hwc, (2 * w, 2 * h), interpolation=cv2.INTER_LINEAR), np.float32)


def _enlarged(engines: Engines) -> Engines:
    """Engines that take points in pixels of INPUT_PX, and whose masks and logits are of its grid."""

    def decode(feed: Mapping[str, Any]) -> dict[str, Any]:
        out = engines.decoder.infer(
            {**feed, "points_xy_px": feed["points_xy_px"] / 2}, outputs_on_device=PROMPT_FEATURES
        )
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

    return Engines(engines.encoder, EngineOf(decode), EngineOf(masks), EngineOf(logits))


def record(sam: Sam, image: NDArray[np.uint8], settings: Settings) -> Recording:
    """Decode every prompt of both grids, and those of USR after the modules before it."""
    enlarged = EnlargedSam(sam)
    filters = settings.filters
    photo = enlarged.encode(image)
    pixels = superpixels(image, photo.geometry, settings.superpixels)
    coarse_points, fine_points = (point_grid(n) for n in (settings.prompts.coarse_side, settings.prompts.fine_side))
    coarse = enlarged.decode(photo, coarse_points, 0, filters)
    fine = enlarged.decode(photo, fine_points, 0, filters, (Level.OBJECT,))
    recording = Recording(image, photo, pixels, coarse, fine, MaskSet.empty(*photo.geometry.grid_hw), settings)
    levels = multi_level_masks(coarse, pixels, settings.mmg)
    exact = replace(settings.emr, gallery="exact")
    entities = refine_entities(levels.object, recording.gallery(), photo, pixels, exact, filters.min_area)
    parts = MaskSet.concatenate([levels.part, levels.subpart])
    points = new_prompts(entities, pixels, parts, photo.geometry, settings.usr, filters.min_area)
    additional = enlarged.decode(photo, points, len(coarse_points), filters, ()).best_level()
    return replace(recording, additional=additional)


def recorded(sam: Sam, name: str, image: NDArray[np.uint8], base: Settings, folder: Path | None = None) -> Recording:
    """`record`, kept in `folder`, by default in the cache, and read from there the next time.

    `additional` answers the prompts that USR had when the photo was recorded.
    """
    settings = base.with_model_defaults(sam.row.default_thresholds())
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
        photo = EncodedPhoto(arrays["embedding"], geometry)
    pixels = superpixels(image, geometry, settings.superpixels)
    return Recording(image, photo, pixels, coarse, fine, additional, settings)
