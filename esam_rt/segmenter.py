"""EntitySegmenter: photo → EntityMap. The only place that knows the order of the stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .artifacts import SILENT, ModelListener
from .emr import refine_entities
from .entities import EntityMap, Stage
from .errors import EngineError, SettingsError, did_you_mean
from .grid import GridEntities
from .load import Placement, load_sam
from .masks import Level, MaskSet
from .mmg import multi_level_masks, nms
from .prompts import point_grid
from .render import render_labels
from .sam import EncodedPhoto, Geometry, Sam, check_photo
from .settings import Settings
from .superpixels import SuperpixelMap, superpixels
from .usr import fill_gaps, new_prompts

METHODS = ("e-sam", "amg", "sam-o")


@dataclass
class _Clock:
    """Seconds spent in each stage of one photo."""

    times_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times_s[stage] = self.times_s.get(stage, 0.0) + time.perf_counter() - start


class EntitySegmenter:
    """Segments every entity of a photo. Loads its engines on construction; usable from several threads at once.

    model: a name in `esam_rt.models.MODELS`, or a loaded one. settings: default `Settings()`, preset `paper`. method:
    `e-sam`, or the baselines `amg` (SAM's automatic mask generation) and `sam-o` (its object level alone). backend,
    device, precision, threads, engines, build: see `Placement`. checkpoint: instead of the model's own. listener: told
    while the model is fetched, exported and built, which happens once.
    Errors: SettingsError for unknown names, ModelError, EngineError and DeviceError for what cannot be loaded.
    """

    def __init__(
        self,
        model: str | Sam = "tiny",
        *,
        settings: Settings | None = None,
        method: str = "e-sam",
        backend: str = "onnxruntime",
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        checkpoint: Path | None = None,
        engines: Path | None = None,
        build: bool = True,
        listener: ModelListener = SILENT,
    ) -> None:
        if method not in METHODS:
            raise SettingsError(f"Unknown method {method!r}.{did_you_mean(method, METHODS)}")
        self.method, self.placement = method, Placement(backend, device, precision, threads, engines, build)
        self._owned = not isinstance(model, Sam)
        self._sam = model if isinstance(model, Sam) else load_sam(model, self.placement, checkpoint, listener)
        self.settings = (settings or Settings()).completed(self._sam.row.own_settings())
        self._filters = self.settings.filters
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="esam-rt")
        self._closed = False

    def __call__(self, image_hwc_rgb: NDArray[np.uint8]) -> EntityMap:
        """Entities of a photo uint8 [H, W, 3], RGB, upright. InputError for any other array."""
        if self._closed:
            raise EngineError("EntitySegmenter: used after close().")
        check_photo(image_hwc_rgb)
        clock = _Clock()
        with clock.measure("encoder"):
            photo = self._sam.encode(image_hwc_rgb)
        if self.method == "e-sam":
            entities, points = self._entities(image_hwc_rgb, photo, clock)
        else:
            entities, points = self._baseline(photo, clock)
        with clock.measure("upsampling"):
            labels = render_labels(entities, self._sam, photo, points)
            result = EntityMap.from_labels(labels, entities.score, entities.stage)
        return replace(result, times_s=clock.times_s)

    def _baseline(self, photo: EncodedPhoto, clock: _Clock) -> tuple[GridEntities, NDArray[np.float32]]:
        """SAM's automatic mask generation, or its object level alone (E-SAM Table 2)."""
        points = point_grid(self.settings.prompts.coarse_side)
        level = Level.OBJECT if self.method == "sam-o" else None
        with clock.measure("decoder"):
            masks = self._sam.decode(photo, points, 0, self._filters, () if level is None else (level,))
        with clock.measure("mmg"):
            chosen = masks.best_level() if level is None else masks.at_level(level)
            kept = nms(chosen, self.settings.amg.nms)
            stage = Stage.AMG if level is None else Stage.SAM_O
            return GridEntities.by_score(kept, stage, self._filters.min_area), points

    def _entities(
        self, image_hwc_rgb: NDArray[np.uint8], photo: EncodedPhoto, clock: _Clock
    ) -> tuple[GridEntities, NDArray[np.float32]]:
        """E-SAM: grid entities, and all prompts that were used."""
        s, sam = self.settings, self._sam
        min_area = self._filters.min_area
        pixels_later = self._pool.submit(self._superpixels, image_hwc_rgb, photo.geometry)
        points = point_grid(s.prompts.coarse_side)
        first_fine = len(points)
        with clock.measure("decoder"):
            coarse = sam.decode(photo, points, 0, self._filters)
            if s.emr.enabled:
                fine_points = point_grid(s.prompts.fine_side)
                fine = sam.decode(photo, fine_points, first_fine, self._filters, (Level.OBJECT,))
                points = np.concatenate([points, fine_points])
        pixels, clock.times_s["superpixels"] = pixels_later.result()
        with clock.measure("mmg"):
            if s.mmg.enabled:
                levels = multi_level_masks(coarse, pixels, s.mmg)
                objects, parts = levels.object, MaskSet.concatenate([levels.part, levels.subpart])
            else:
                objects, parts = nms(coarse.best_level(), s.amg.nms), MaskSet.empty(*photo.geometry.grid_hw)
        with clock.measure("emr"):
            if s.emr.enabled:
                entities = refine_entities(objects, fine, fine_points, first_fine, photo, pixels, s.emr, min_area)
            else:
                entities = GridEntities.by_score(objects, Stage.MMG if s.mmg.enabled else Stage.AMG, min_area)
        if s.usr.enabled:
            with clock.measure("usr"):
                new_points = new_prompts(entities, pixels, parts, photo.geometry, s.usr, min_area)
            with clock.measure("decoder"):
                additional = sam.decode(photo, new_points, len(points), self._filters, ()).best_level()
            with clock.measure("usr"):
                entities = fill_gaps(entities, additional, s.usr, min_area)
            points = np.concatenate([points, new_points])
        return entities, points

    def _superpixels(self, image_hwc_rgb: NDArray[np.uint8], geometry: Geometry) -> tuple[SuperpixelMap, float]:
        """Superpixels and the seconds they took: they run beside the decoder."""
        start = time.perf_counter()
        return superpixels(image_hwc_rgb, geometry, self.settings.superpixels), time.perf_counter() - start

    def model_info(self) -> dict[str, Any]:
        """Name, checkpoint hash, own settings, backend and device, for the record of a run."""
        return {
            "name": self._sam.row.name,
            "checkpoint_sha256": self._sam.checkpoint_sha256,
            "own_settings": self._sam.row.own_settings(),
            "backend": self.placement.backend,
            "device": self.placement.device,
            "precision": self.placement.precision,
        }

    def close(self) -> None:
        """Release the engines, unless the model was handed in loaded; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._pool.shutdown()
            if self._owned:
                self._sam.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
