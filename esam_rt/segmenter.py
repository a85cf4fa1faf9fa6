"""EntitySegmenter: photo → EntityMap. The only place that knows the order of the stages."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import MOST_LABELS, EntityMap
from esam_rt.errors import EngineError, SettingsError, did_you_mean
from esam_rt.loading.events import SILENT, ModelListener
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.masks import Level, MaskSet
from esam_rt.method.emr import refine_entities
from esam_rt.method.gallery import Gallery
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.mmg import multi_level_masks, nms
from esam_rt.method.render import render_labels
from esam_rt.method.superpixels import SuperpixelMap, reduced_hw, regions, superpixels
from esam_rt.method.usr import fill_gaps, new_prompts
from esam_rt.sam.encoded_image import EncodedPhoto
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.images import Photo
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.predictor import Sam
from esam_rt.settings import Settings, Superpixels
from esam_rt.stages import Stage
from esam_rt.tracing import Trace

METHODS = ("e-sam", "amg", "sam-o", "superpixels")


@dataclass(frozen=True)
class SegmenterConfig:
    """All that makes a segmenter. It can be pickled, so that worker processes start from it.

    Args:
        model: A name that `esam-rt models` lists.
        checkpoint: Weights in place of the model's own.
        method: A name of `METHODS`.
        settings: Numbers of the method.
        execution: What runs the networks, and where. A stream cannot be pickled.
    """

    model: str = "tiny"
    checkpoint: Path | None = None
    method: str = "e-sam"
    settings: Settings = field(default_factory=Settings)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def open(self, listener: ModelListener = SILENT) -> EntitySegmenter:
        """Load the model and return its segmenter."""
        return EntitySegmenter(
            self.model,
            settings=self.settings,
            method=self.method,
            execution=self.execution,
            checkpoint=self.checkpoint,
            listener=listener,
        )


class EntitySegmenter:
    """Segments every entity of a photo. Loads its engines on construction; usable from several threads at once.

    model: a name in `sam.models.MODELS`, or a loaded one. settings: default `Settings()`, preset `paper`. method:
    `e-sam`, or the baselines `amg` (SAM's automatic mask generation), `sam-o` (its object level alone) and
    `superpixels` (as they are, scored by size; the model is loaded, but not asked). execution: what runs the networks,
    and where; a loaded model stays where it is, which `model_info` does not know. checkpoint: instead of the model's
    own. listener: told while the model is fetched, exported and built, which happens once. superpixels: makes the
    superpixels of a photo; by default the method's own.
    Errors: SettingsError for unknown names, ModelError, EngineError and DeviceError for what cannot be loaded.
    """

    def __init__(
        self,
        model: str | Sam = "tiny",
        *,
        settings: Settings | None = None,
        method: str = "e-sam",
        execution: ExecutionConfig | None = None,
        checkpoint: Path | None = None,
        listener: ModelListener = SILENT,
        superpixels: Callable[[NDArray[np.uint8], Geometry, Superpixels], SuperpixelMap] = superpixels,
        **deprecated: Any,
    ) -> None:
        if deprecated:
            message = f"EntitySegmenter({', '.join(deprecated)}): pass execution=ExecutionConfig(...)."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            execution = ExecutionConfig(**deprecated)
        if method not in METHODS:
            raise SettingsError(f"Unknown method {method!r}.{did_you_mean(method, METHODS)}")
        self.method = method
        self.execution = execution or ExecutionConfig()
        self._owned = not isinstance(model, Sam)
        self._sam = model if isinstance(model, Sam) else load_sam(model, self.execution, checkpoint, listener)
        self.settings = (settings or Settings()).with_model_defaults(self._sam.row.default_thresholds())
        self._filters = self.settings.filters
        self._compute_superpixels = superpixels
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="esam-rt")
        self._closed = False

    def __call__(self, image_hwc_rgb: Any) -> EntityMap:
        """Entities of a photo uint8 [H, W, 3], RGB, upright. InputError for any other array.

        A NumPy array, or, with a backend on the GPU, an array there of PyTorch, CuPy, Numba, JAX or whatever else has
        DLPack or `__cuda_array_interface__`; it is scaled where it lies, and rows may lie apart. Masks and results are
        on the host.
        """
        if self._closed:
            raise EngineError("EntitySegmenter: used after close().")
        image = self._sam.photo(image_hwc_rgb)
        trace = Trace()
        if self.method == "superpixels":
            return self._superpixels_alone(image, trace)
        pixels_later = None
        if self.method == "e-sam":
            geometry = Geometry.of((image.shape[0], image.shape[1]), self._sam.row.input_px)
            pixels_later = self._pool.submit(self._superpixels, self._on_host(image), geometry, trace)
        with trace.span("encoder"):
            photo = self._sam.encode(image)
        if pixels_later is None:
            entities, points = self._baseline(photo, trace)
        else:
            with closing(self._gallery(photo, trace)) as gallery:
                entities, points = self._entities(photo, gallery, pixels_later, trace)
        with trace.span("upsampling"):
            labels = render_labels(entities, self._sam, photo, points)
            result = EntityMap.from_labels(labels, entities.score, entities.stage, in_place=True)
        return replace(result, times_s=trace.seconds(), spans=tuple(trace.spans))

    def _baseline(self, photo: EncodedPhoto, trace: Trace) -> tuple[GridEntities, NDArray[np.float32]]:
        """SAM's automatic mask generation, or its object level alone (E-SAM Table 2)."""
        points = point_grid(self.settings.prompts.coarse_side)
        level = Level.OBJECT if self.method == "sam-o" else None
        with trace.span("decoder"):
            masks = self._sam.decode(photo, points, 0, self._filters, () if level is None else (level,))
        with trace.span("mmg"):
            chosen = masks.best_level() if level is None else masks.at_level(level)
            kept = nms(chosen, self.settings.amg.nms)
            stage = Stage.AMG if level is None else Stage.SAM_O
            return GridEntities.by_score(kept, stage, self._filters.min_area), points

    def _entities(
        self, photo: EncodedPhoto, gallery: Gallery, pixels_later: Future[SuperpixelMap], trace: Trace
    ) -> tuple[GridEntities, NDArray[np.float32]]:
        """E-SAM: grid entities, and the prompts that they may have been made of."""
        s, sam = self.settings, self._sam
        min_area = self._filters.min_area
        points = point_grid(s.prompts.coarse_side)
        with trace.span("decoder"):
            coarse = sam.decode(photo, points, 0, self._filters)
        all_asked = self._pool.submit(gallery.ask_all) if s.emr.enabled and s.emr.gallery == "exact" else None
        pixels = pixels_later.result()
        with trace.span("mmg"):
            if s.mmg.enabled:
                levels = multi_level_masks(coarse, pixels, s.mmg)
                objects, parts = levels.object, MaskSet.concatenate([levels.part, levels.subpart])
            else:
                objects, parts = nms(coarse.best_level(), s.amg.nms), MaskSet.empty(*photo.geometry.grid_hw)
        if all_asked is not None:
            all_asked.result()
        with trace.span("emr"):
            if s.emr.enabled:
                entities = refine_entities(objects, gallery, photo, pixels, s.emr, min_area)
            else:
                entities = GridEntities.by_score(objects, Stage.MMG if s.mmg.enabled else Stage.AMG, min_area)
        if s.usr.enabled:
            with trace.span("usr"):
                new_points = new_prompts(entities, pixels, parts, photo.geometry, s.usr, min_area)
            with trace.span("decoder"):
                additional = sam.decode(photo, new_points, len(points), self._filters, ()).best_level()
            with trace.span("usr"):
                entities = fill_gaps(entities, additional, s.usr, min_area)
            points = np.concatenate([points, new_points])
        return entities, points

    def _superpixels_alone(self, image: Photo, trace: Trace) -> EntityMap:
        """Each superpixel as an entity (E-SAM §4.4); its score is its share of the photo."""
        with trace.span("superpixels"):
            small = regions(self._on_host(image), self.settings.superpixels)
            pixels = np.bincount(small.ravel())
            if len(pixels) > MOST_LABELS:
                raise SettingsError(
                    f"{len(pixels)} superpixels, of which a label map holds {MOST_LABELS}; raise superpixels.min_size."
                )
            h, w = image.shape[:2]
            y, x = (np.arange(n) * m // n for n, m in ((h, small.shape[0]), (w, small.shape[1])))
            labels = (small.astype(np.uint16) + np.uint16(1))[y[:, None], x]
            stage = np.full(len(pixels), Stage.SUPERPIXELS)
            result = EntityMap.from_labels(labels, pixels / small.size, stage, in_place=True)
        return replace(result, times_s=trace.seconds(), spans=tuple(trace.spans))

    def _gallery(self, photo: EncodedPhoto, trace: Trace) -> Gallery:
        """The fine grid's masks, decoded when EMR asks for them; an interrupt does not wait for those still to come."""
        closed = threading.Event()  # apart from the gallery: in a cycle it would hold the photo on the GPU

        def is_stopped() -> bool:
            return closed.is_set() or self._closed

        def decode(points_norm_xy: NDArray[np.float32]) -> MaskSet:
            with trace.span("decoder"):
                return self._sam.decode(photo, points_norm_xy, 0, self._filters, (Level.OBJECT,), stopped=is_stopped)

        return Gallery(self.settings.prompts.fine_side, photo.geometry, decode, closed)

    def _on_host(self, image: Photo) -> NDArray[np.uint8]:
        """A photo for superpixels; of one on the GPU no more than they look at."""
        if isinstance(image, np.ndarray):
            return image
        return image.on_host(reduced_hw((image.shape[0], image.shape[1]), self.settings.superpixels))

    def _superpixels(self, image_hwc_rgb: NDArray[np.uint8], geometry: Geometry, trace: Trace) -> SuperpixelMap:
        """Superpixels need the photo alone: they run beside the encoder and the decoder."""
        with trace.span("superpixels"):
            return self._compute_superpixels(image_hwc_rgb, geometry, self.settings.superpixels)

    def model_info(self) -> dict[str, Any]:
        """Name, checkpoint hash, own settings, backend and device, for the record of a run."""
        return {
            "name": self._sam.row.name,
            "checkpoint_sha256": self._sam.checkpoint_sha256,
            "default_thresholds": self._sam.row.default_thresholds(),
            "backend": self.execution.backend,
            "device": self.execution.device,
            "precision": self.execution.precision,
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
