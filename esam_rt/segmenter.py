"""EntitySegmenter: image to EntityMap. Only this module knows the order of the stages."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.errors import EngineError, SettingsError, did_you_mean
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.masks import Level, MaskSet
from esam_rt.method import superpixels as superpixel_stage
from esam_rt.method.baselines import automatic_masks, object_masks, region_entities
from esam_rt.method.emr import refine_entities
from esam_rt.method.gallery import Gallery, LazyDecoder
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.mmg import multi_level_masks, nms
from esam_rt.method.render import render_labels
from esam_rt.method.superpixels import SuperpixelMap, reduced_hw
from esam_rt.method.usr import fill_gaps, new_prompts
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.images import Image
from esam_rt.sam.point_grids import point_grid
from esam_rt.sam.promptable import Promptable
from esam_rt.settings import Settings, Superpixels, decided
from esam_rt.stages import Stage
from esam_rt.tracing import Trace

METHODS = {
    "e-sam": "E-SAM: MMG, EMR and USR",
    "amg": "baseline: SAM's automatic mask generation",
    "sam-o": "baseline: SAM's object level alone",
    "superpixels": "baseline: superpixels alone; the model is loaded but not used",
}
Result = TypeVar("Result")
SuperpixelFunction: TypeAlias = Callable[[NDArray[np.uint8], Geometry, Superpixels], SuperpixelMap]


ONE_EACH = "Make one in each process, for example by SegmenterConfig(...).open()."


@dataclass(frozen=True)
class SegmenterConfig:
    """Everything that a segmenter is made from. It can be pickled, so worker processes can start from it.

    Attributes:
        model: A name that ``esam-rt models`` lists.
        checkpoint: Weights in place of the model's own.
        method: A name of ``METHODS``.
        settings: Numbers of the method.
        execution: Backend and device of the networks. A stream cannot be pickled.
    """

    model: str = "tiny"
    checkpoint: Path | None = None
    method: str = "e-sam"
    settings: Settings = field(default_factory=Settings)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    def open(self, on_event: OnEvent = ignore) -> EntitySegmenter:
        """Load the model and return its segmenter.

        Args:
            on_event: Called while the model is fetched, exported and built.

        Raises:
            SettingsError: A name is unknown.
            EsamError: The model cannot be loaded.
        """
        return EntitySegmenter(
            self.model,
            settings=self.settings,
            method=self.method,
            execution=self.execution,
            checkpoint=self.checkpoint,
            on_event=on_event,
        )


class EntitySegmenter:
    """Segments every entity of an image. Several threads may use one segmenter at once.

    Args:
        model: A name that ``esam-rt models`` lists, or a loaded model. A loaded model is not closed by ``close``.
        settings: Numbers of the method. Default: the preset ``paper``.
        method: A name of ``METHODS``.
        execution: Backend and device of the networks. It does not move a loaded model.
        checkpoint: Weights in place of the model's own.
        on_event: Called while the model is fetched, exported and built. That happens once.
        superpixels: Replaces ``esam_rt.method.superpixels.superpixels``, to share the superpixels of an image.
        **deprecated: Fields of ``ExecutionConfig``, as earlier versions took them.

    Raises:
        SettingsError: A name is unknown.
        ModelError: The model's files are missing or broken.
        EngineError: An engine cannot be built or loaded.
        DeviceError: The device is missing or has too little memory.
    """

    def __init__(
        self,
        model: str | Promptable = "tiny",
        *,
        settings: Settings | None = None,
        method: str = "e-sam",
        execution: ExecutionConfig | None = None,
        checkpoint: Path | None = None,
        on_event: OnEvent = ignore,
        superpixels: SuperpixelFunction | None = None,
        **deprecated: Any,
    ) -> None:
        if deprecated:
            if execution is not None:
                raise SettingsError(f"{', '.join(deprecated)}: given beside execution; expected them inside of it.")
            message = f"EntitySegmenter({', '.join(deprecated)}): pass execution=ExecutionConfig(...)."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            execution = ExecutionConfig(**deprecated)
        if method not in METHODS:
            raise SettingsError(f"Unknown method {method!r}.{did_you_mean(method, METHODS)}")
        if settings is not None and not isinstance(settings, Settings):
            raise SettingsError(
                f"settings: expected Settings, got {type(settings).__name__}; "
                'use Settings().with_overrides({"emr.delta": 0.1}).'
            )
        self.method = method
        self.execution = execution or ExecutionConfig()
        self._owns_model = isinstance(model, str)
        self._sam = load_sam(model, self.execution, checkpoint, on_event) if isinstance(model, str) else model
        self.settings = (settings or Settings()).with_model_defaults(self._sam.model.default_thresholds())
        self._superpixels = superpixels or superpixel_stage.superpixels
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="esam-rt")
        self._closing = CancelToken()
        self._process_id = os.getpid()

    def __call__(self, image_hwc_rgb: Any) -> EntityMap:
        """Segment an image.

        Args:
            image_hwc_rgb: uint8 [H, W, 3], RGB, upright: a NumPy array. A backend on the GPU also takes an array of
                PyTorch, CuPy, Numba, JAX or any library with DLPack or ``__cuda_array_interface__``. Such an array is
                scaled on the GPU, and its rows may lie apart.

        Returns:
            The entities, on the host.

        Raises:
            InputError: The array is of another kind.
            EngineError: The segmenter is closed, or was made in another process.
            DecodingCancelledError: ``close`` was called meanwhile.
        """
        if self.is_closed:
            raise EngineError("EntitySegmenter: used after close().")
        if os.getpid() != self._process_id:  # a forked child has none of the threads, and would wait for ever
            raise EngineError(f"EntitySegmenter: made in process {self._process_id}, used in {os.getpid()}. {ONE_EACH}")
        image, trace = self._sam.check_image(image_hwc_rgb), Trace()
        if self.method == "superpixels":
            result = self._segment_with_superpixels(image, trace)
        elif self.method == "e-sam":
            result = self._segment_with_e_sam(image, trace)
        else:
            result = self._segment_with_sam(image, trace)
        return replace(result, times_s=trace.seconds(), spans=tuple(trace.spans))

    def _segment_with_e_sam(self, image: Image, trace: Trace) -> EntityMap:
        """E-SAM: superpixels beside the encoder, then MMG, EMR and USR."""
        s = self.settings
        geometry = Geometry.of((image.shape[0], image.shape[1]), self._sam.model.input_px)
        pixels_later = self._start(self._find_superpixels, self._on_host(image), geometry, trace)
        encoded = self._encode(image, trace)
        with CancelToken(parent=self._closing) as cancel:  # an interrupt does not wait for the rest of the gallery
            decoder = LazyDecoder(self._sam, encoded, s.filters, cancel, trace)
            gallery = Gallery(s.prompts.fine_side, geometry, decoder)
            prompts = point_grid(s.prompts.coarse_side)
            coarse = self._decode(encoded, prompts, 0, trace)
            whole_gallery = s.emr.enabled and s.emr.gallery == "exact"
            gallery_later = self._start(gallery.ask_all) if whole_gallery else None
            pixels = pixels_later.result()
            objects, parts = self._generate_levels(coarse, pixels, trace)
            if gallery_later is not None:
                gallery_later.result()
            entities = self._refine(objects, gallery, encoded, pixels, trace)
            if s.usr.enabled:
                more_prompts = self._find_gaps(entities, pixels, parts, geometry, trace)
                additional = self._decode(encoded, more_prompts, len(prompts), trace, levels=()).best_level()
                entities = self._fill_gaps(entities, additional, trace)
                prompts = np.concatenate([prompts, more_prompts])
        return self._render(entities, encoded, prompts, trace)

    def _segment_with_sam(self, image: Image, trace: Trace) -> EntityMap:
        """SAM's automatic mask generation, or its object level alone (E-SAM Table 2)."""
        encoded = self._encode(image, trace)
        prompts = point_grid(self.settings.prompts.coarse_side)
        choose, levels = (object_masks, (Level.OBJECT,)) if self.method == "sam-o" else (automatic_masks, ())
        masks = self._decode(encoded, prompts, 0, trace, levels)
        with trace.span("mmg"):
            entities = choose(masks, decided(self.settings.amg.nms, "amg.nms"), self.settings.filters.min_area)
        return self._render(entities, encoded, prompts, trace)

    def _segment_with_superpixels(self, image: Image, trace: Trace) -> EntityMap:
        """Each superpixel is an entity (E-SAM §4.4)."""
        with trace.span("superpixels"):
            regions = superpixel_stage.regions(self._on_host(image), self.settings.superpixels)
            return region_entities(regions, (image.shape[0], image.shape[1]))

    def _encode(self, image: Image, trace: Trace) -> EncodedImage:
        with trace.span("encoder"):
            return self._sam.encode(image)

    def _decode(
        self,
        encoded: EncodedImage,
        prompts: NDArray[np.float32],
        first_prompt: int,
        trace: Trace,
        levels: tuple[Level, ...] = tuple(Level),
    ) -> MaskSet:
        """High-confidence masks at `levels`, and the best mask of each prompt."""
        with trace.span("decoder"):
            return self._sam.decode(encoded, prompts, first_prompt, self.settings.filters, levels)

    def _start(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Run a function in another thread. DecodingCancelledError after ``close``."""
        try:
            return self._pool.submit(function, *arguments)
        except RuntimeError:  # the pool takes no more work, or there is no thread left
            self._closing.check()
            raise

    def _on_host(self, image: Image) -> NDArray[np.uint8]:
        """Copy an image on the GPU to the host, reduced to the size that superpixels need."""
        return image.on_host(reduced_hw((image.shape[0], image.shape[1]), self.settings.superpixels))

    def _find_superpixels(self, image_hwc_rgb: NDArray[np.uint8], geometry: Geometry, trace: Trace) -> SuperpixelMap:
        with trace.span("superpixels"):
            return self._superpixels(image_hwc_rgb, geometry, self.settings.superpixels)

    def _generate_levels(self, coarse: MaskSet, pixels: SuperpixelMap, trace: Trace) -> tuple[MaskSet, MaskSet]:
        """MMG: object masks, and part masks of both levels."""
        with trace.span("mmg"):
            if not self.settings.mmg.enabled:
                objects = nms(coarse.best_level(), decided(self.settings.amg.nms, "amg.nms"))
                return objects, MaskSet.empty(*coarse.grid_hw)
            levels = multi_level_masks(coarse, pixels, self.settings.mmg)
            return levels.object, MaskSet.concatenate([levels.part, levels.subpart])

    def _refine(
        self, objects: MaskSet, gallery: Gallery, encoded: EncodedImage, pixels: SuperpixelMap, trace: Trace
    ) -> GridEntities:
        """EMR: entities from object masks."""
        s = self.settings
        with trace.span("emr"):
            if s.emr.enabled:
                return refine_entities(objects, gallery, encoded, pixels, s.emr, s.filters.min_area)
            return GridEntities.by_score(objects, Stage.MMG if s.mmg.enabled else Stage.AMG, s.filters.min_area)

    def _find_gaps(
        self, entities: GridEntities, pixels: SuperpixelMap, parts: MaskSet, geometry: Geometry, trace: Trace
    ) -> NDArray[np.float32]:
        """USR: new prompts in superpixels that no entity covers."""
        with trace.span("usr"):
            s = self.settings
            return new_prompts(entities, pixels, parts, geometry, s.usr, s.filters.min_area)

    def _fill_gaps(self, entities: GridEntities, additional: MaskSet, trace: Trace) -> GridEntities:
        """USR: entities with the gaps filled by additional masks."""
        with trace.span("usr"):
            return fill_gaps(entities, additional, self.settings.usr, self.settings.filters.min_area)

    def _render(
        self, entities: GridEntities, encoded: EncodedImage, prompts: NDArray[np.float32], trace: Trace
    ) -> EntityMap:
        with trace.span("upsampling"):
            labels = render_labels(entities, self._sam, encoded, prompts)
            return EntityMap.from_labels(labels, entities.score, entities.stage, in_place=True)

    def model_info(self) -> dict[str, Any]:
        """Return the model's name, checkpoint hash and default thresholds, and the backend, device and precision."""
        return {
            "name": self._sam.model.name,
            "checkpoint_sha256": self._sam.checkpoint_sha256,
            "default_thresholds": self._sam.model.default_thresholds(),
            "backend": self.execution.backend,
            "device": self.execution.device,
            "precision": self.execution.precision,
        }

    @property
    def sam(self) -> Promptable:
        """The model."""
        return self._sam

    @property
    def is_closed(self) -> bool:
        """True after ``close``."""
        return self._closing.is_cancelled

    def __reduce__(self) -> NoReturn:
        raise EngineError(f"EntitySegmenter: cannot be pickled, since it holds threads and engines. {ONE_EACH}")

    def close(self) -> None:
        """Release the engines, unless the model was passed in loaded. A second call does nothing."""
        if not self.is_closed:
            self._closing.cancel()
            self._pool.shutdown()
            if self._owns_model:
                self._sam.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
