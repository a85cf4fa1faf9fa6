"""Pipeline: one image through the stages. Only this module knows their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from esam_rt.entity_map import EntityMap
from esam_rt.kernels.bits import unpack
from esam_rt.masks import Level, MaskSet
from esam_rt.method import superpixels as superpixel_stage
from esam_rt.method.adaptive_prompts import in_waves, outside_agreed_masks, shared_gallery
from esam_rt.method.baselines import automatic_masks, object_masks, region_entities
from esam_rt.method.cleanup import clean_up
from esam_rt.method.coherent_prompts import CoherentPrompts
from esam_rt.method.emr import refine_entities
from esam_rt.method.grid_entities import GridEntities
from esam_rt.method.mmg import multi_level_masks, nms
from esam_rt.method.prompt_decoder import PromptDecoder
from esam_rt.method.prompt_set import Decode, PromptSet
from esam_rt.method.render import render_labels
from esam_rt.method.superpixels import SuperpixelMap, reduced_hw
from esam_rt.method.time_budget import TimeBudget
from esam_rt.method.usr import fill_gaps, new_prompts
from esam_rt.method.waves import all_at_once, decode_waves, depth, farthest_first
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encode_once import EncodeOnce
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.geometry import Geometry
from esam_rt.sam.images import Image
from esam_rt.sam.point_grids import Latitudes
from esam_rt.sam.promptable import Promptable
from esam_rt.settings import Adaptive, Settings, Superpixels, decided
from esam_rt.stages import Stage
from esam_rt.tracing import Trace

Result = TypeVar("Result")
SuperpixelFunction: TypeAlias = Callable[[NDArray[np.uint8], Geometry, Superpixels], SuperpixelMap]


class Start(Protocol):
    """Runs a function in another thread."""

    def __call__(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Start the function.

        Args:
            function: The function.
            *arguments: Its arguments.

        Raises:
            DecodingCancelledError: The segmenter was closed.
        """
        ...


@dataclass(frozen=True, eq=False)
class PreparedImage(EncodedImage):
    """An encoded image, with the rest of the work that needs no other image.

    Attributes:
        superpixels: Its superpixels, or None if the method has none. They may still be in work.
        found_by: Function and settings of the superpixels. A segmenter with others finds its own.
        trace: Times of the work.
    """

    superpixels: Future[SuperpixelMap] | None = None
    found_by: tuple[SuperpixelFunction, Superpixels] | None = None
    trace: Trace = field(default_factory=Trace)


class Pipeline:
    """The stages of one image. An object is used once.

    Args:
        sam: The model.
        settings: Numbers of the method, without ``None``.
        image: The image.
        encode: Encodes the image, unless that was done before.
        find_superpixels: Finds the superpixels of E-SAM.
        start: Runs a function in another thread.
        budget: The time for the image.
        cancel: Set it to stop decoding.
        latitudes: Latitudes of the upper and the lower edge, if the image is a part of a panorama.
        coherent: The frames before, if the image is a frame of a camera.
    """

    def __init__(
        self,
        sam: Promptable,
        settings: Settings,
        image: Image,
        encode: EncodeOnce,
        find_superpixels: SuperpixelFunction,
        start: Start,
        budget: TimeBudget,
        cancel: CancelToken,
        latitudes: Latitudes | None = None,
        coherent: CoherentPrompts | None = None,
    ) -> None:
        self._sam, self._settings, self._image = sam, settings, image
        self._encode_once, self._superpixels, self._start = encode, find_superpixels, start
        self._budget, self._cancel, self._latitudes, self._trace = budget, cancel, latitudes, Trace()
        self._coherent = coherent if coherent is not None and coherent.has_entities else None
        self._prepared = encode.encoded if isinstance(encode.encoded, PreparedImage) else None
        self._orig_hw = (image.shape[0], image.shape[1])
        self._geometry = Geometry.of(self._orig_hw, sam.model.input_px)

    def run(self, method: str) -> EntityMap:
        """Segment the image.

        Args:
            method: ``e-sam``, ``amg``, ``sam-o`` or ``superpixels``.

        Raises:
            DecodingCancelledError: ``cancel`` was set.
        """
        self._cancel.check()
        if method == "superpixels":
            result = self._segment_with_superpixels()
        elif self._encode_once.encoded is None and not self._budget.may_encode():
            result = self._nothing()
        elif method == "e-sam":
            result = self._segment_with_e_sam()
        else:
            result = self._segment_with_sam(method)
        if self._prepared is not None:
            self._trace.spans.extend(self._prepared.trace.spans)
        return replace(
            result,
            times_s=self._trace.seconds(),
            spans=tuple(self._trace.spans),
            prompts_decoded=self._budget.prompts_decoded,
        )

    def prepare(self, method: str) -> PreparedImage:
        """Encode the image, and begin to find its superpixels.

        Args:
            method: ``e-sam``, ``amg`` or ``sam-o``.
        """
        pixels = self._start(self._find_superpixels, self._on_host()) if method == "e-sam" else None
        made = self._encode()
        return PreparedImage(
            made.embedding, made.geometry, made.image_features, self._image, pixels, self._found_by, self._trace
        )

    def _segment_with_e_sam(self) -> EntityMap:
        """E-SAM: superpixels beside the encoder, then MMG, EMR and USR.

        With a deadline, prompts are decoded by their worth: the coarse grid, then gaps, then votes of the gallery.
        """
        s, is_limited = self._settings, self._budget.is_limited
        prepared = self._prepared.superpixels if self._prepared and self._prepared.found_by == self._found_by else None
        pixels_later = prepared or self._start(self._find_superpixels, self._on_host())
        encoded = self._encode()
        decoder = self._decoder(encoded)
        coarse = self._decode_coarse_grid(decoder, adaptive=s.adaptive if s.is_adaptive else None)
        if self._budget.prompts_decoded == 0:
            if prepared is None:
                pixels_later.cancel()
            return self._nothing()
        gallery = self._gallery(coarse, decoder)
        is_exact = s.emr.enabled and s.emr.gallery == "exact"
        gallery_later = self._start(gallery.ask_all) if is_exact and not is_limited else None
        pixels = pixels_later.result()
        objects, parts = self._generate_levels(coarse.masks, pixels)
        fills_gaps, gaps = s.usr.enabled and coarse.is_complete, None  # no time for the grid: none for gaps
        if fills_gaps and is_limited:
            covered = GridEntities.by_score(objects, Stage.MMG, s.filters.min_area)
            gaps = self._decode_gaps(covered, pixels, parts, decoder)
        if gallery_later is not None:
            gallery_later.result()
        entities = self._refine(objects, gallery, encoded, pixels)
        if fills_gaps:
            gaps = self._decode_gaps(entities, pixels, parts, decoder, gaps)
            entities = self._fill_gaps(entities, gaps, len(coarse))
        sets = [coarse] if gaps is None else [coarse, gaps]
        result = self._render(entities, decoder, np.concatenate([prompts.points_norm_xy for prompts in sets]))
        stages = {Stage.MMG if s.mmg.enabled else Stage.AMG: coarse}
        if s.emr.enabled:
            stages[Stage.EMR] = gallery
        if gaps is not None:
            stages[Stage.USR] = gaps
        return self._finish(result, stages)

    def _segment_with_sam(self, method: str) -> EntityMap:
        """SAM's automatic mask generation, or its object level alone (E-SAM Table 2)."""
        decoder = self._decoder(self._encode())
        is_amg = method == "amg"
        coarse = self._decode_coarse_grid(decoder, () if is_amg else (Level.OBJECT,))
        if self._budget.prompts_decoded == 0:
            return self._nothing()
        with self._trace.span("mmg"):
            choose, iou_max = automatic_masks if is_amg else object_masks, decided(self._settings.amg.nms, "amg.nms")
            entities = choose(coarse.masks, iou_max, self._settings.filters.min_area)
        result = self._render(entities, decoder, coarse.points_norm_xy)
        return self._finish(result, {Stage.AMG if is_amg else Stage.SAM_O: coarse})

    def _segment_with_superpixels(self) -> EntityMap:
        """Each superpixel is an entity (E-SAM §4.4)."""
        with self._trace.span("superpixels"):
            regions = superpixel_stage.regions(self._on_host(), self._settings.superpixels)
            return replace(region_entities(regions, self._orig_hw), completed_stages=(Stage.SUPERPIXELS,))

    def _nothing(self) -> EntityMap:
        """An empty map, if there was no time for a single prompt."""
        self._budget.finish()
        labels = np.zeros(self._orig_hw, np.uint16)
        return replace(EntityMap.from_labels(labels, np.zeros(0), np.zeros(0, np.uint8), in_place=True), complete=False)

    def _finish(self, result: EntityMap, stages: Mapping[Stage, PromptSet]) -> EntityMap:
        """Note how far the stages came, in their order."""
        self._budget.finish()
        completed = tuple(stage for stage, _ in takewhile(lambda item: item[1].is_complete, stages.items()))
        return replace(result, complete=len(completed) == len(stages), completed_stages=completed)

    def _encode(self) -> EncodedImage:
        if self._encode_once.encoded is not None:
            return self._encode_once.encoded
        with self._trace.span("encoder"), self._budget.step("encoder"):
            return self._encode_once(self._image)

    def _decoder(self, encoded: EncodedImage) -> PromptDecoder:
        return PromptDecoder(self._sam, encoded, self._settings.filters, self._cancel, self._budget, self._trace)

    def _decode_coarse_grid(
        self, decoder: PromptDecoder, levels: tuple[Level, ...] = tuple(Level), adaptive: Adaptive | None = None
    ) -> PromptSet:
        """High-confidence masks of the coarse grid at `levels`, and the best mask of each prompt.

        In a stream, points of the frame before can replace the grid.
        """
        if self._coherent is not None:
            points = self._coherent.points(self._geometry, self._settings)
            coarse = PromptSet(points, self._geometry, decoder.at(levels), self._budget)
            coarse.ask_all()
            return coarse
        coarse = self._grid(self._settings.prompts.coarse_side, decoder.at(levels))
        strategy = all_at_once if adaptive is None else outside_agreed_masks(adaptive)
        if self._budget.is_limited:
            strategy = farthest_first(strategy)
        elif adaptive is not None:
            strategy = in_waves(strategy, adaptive.wave)
        decode_waves(coarse, strategy)
        return coarse

    def _gallery(self, coarse: PromptSet, decoder: PromptDecoder) -> PromptSet:
        """Object masks and best masks of the fine grid, decoded on demand."""
        s, decode = self._settings, decoder.at((Level.OBJECT,))
        side = s.prompts.fine_side if self._coherent is None else s.coherent.fine_side
        if self._votes is not None:
            return shared_gallery(coarse, side, self._geometry, decode, self._budget, self._latitudes)
        return self._grid(side, decode)

    def _grid(self, side: int, decode: Decode) -> PromptSet:
        return PromptSet.grid(side, self._geometry, decode, self._budget, self._latitudes)

    @property
    def _votes(self) -> int | None:
        """Replaces ``emr.votes``, if the coarse prompts vote too."""
        s = self._settings
        return s.coherent.votes if self._coherent is not None else s.adaptive.votes if s.is_adaptive else None

    @property
    def _found_by(self) -> tuple[SuperpixelFunction, Superpixels]:
        return self._superpixels, self._settings.superpixels

    def _on_host(self) -> NDArray[np.uint8]:
        """Copy an image on the GPU to the host, reduced to the size that superpixels need."""
        return self._image.on_host(reduced_hw(self._orig_hw, self._settings.superpixels))

    def _find_superpixels(self, image_hwc_rgb: NDArray[np.uint8]) -> SuperpixelMap:
        with self._trace.span("superpixels"):
            return self._superpixels(image_hwc_rgb, self._geometry, self._settings.superpixels)

    def _generate_levels(self, coarse: MaskSet, pixels: SuperpixelMap) -> tuple[MaskSet, MaskSet]:
        """MMG: object masks, and part masks of both levels."""
        with self._trace.span("mmg"):
            if not self._settings.mmg.enabled:
                objects = nms(coarse.best_level(), decided(self._settings.amg.nms, "amg.nms"))
                return objects, MaskSet.empty(*coarse.grid_hw)
            levels = multi_level_masks(coarse, pixels, self._settings.mmg)
            return levels.object, MaskSet.concatenate([levels.part, levels.subpart])

    def _refine(
        self, objects: MaskSet, gallery: PromptSet, encoded: EncodedImage, pixels: SuperpixelMap
    ) -> GridEntities:
        """EMR: entities from object masks."""
        s = self._settings
        with self._trace.span("emr"):
            if s.emr.enabled:
                emr = s.emr if self._votes is None else s.emr.with_changes(votes=self._votes)
                return refine_entities(objects, gallery, encoded, pixels, emr, s.filters.min_area)
            return GridEntities.by_score(objects, Stage.MMG if s.mmg.enabled else Stage.AMG, s.filters.min_area)

    def _decode_gaps(
        self,
        entities: GridEntities,
        pixels: SuperpixelMap,
        parts: MaskSet,
        decoder: PromptDecoder,
        earlier: PromptSet | None = None,
    ) -> PromptSet:
        """USR: prompts in superpixels that no entity covers, with their best masks. The deepest come first.

        In a stream, the frames before choose a few of them.
        """
        s = self._settings
        with self._trace.span("usr"):
            points = new_prompts(entities, pixels, parts, self._geometry, s.usr, s.filters.min_area)
            order = None
            if self._budget.is_limited or self._coherent is not None:
                covered = unpack(entities.covered()[None], entities.width)[0]
                cells_yx = self._geometry.to_cell_yx(points)
                depths = depth(covered, cells_yx)
                if self._coherent is None:
                    order = np.argsort(-depths, kind="stable")
                else:
                    points = points[self._coherent.choose_gaps(cells_yx, depths, s.coherent.gaps)]
            gaps = PromptSet(points, self._geometry, decoder.at(()), self._budget, order)
            if earlier is not None:
                gaps.take_over(earlier)
            gaps.ask_all()
            return gaps

    def _fill_gaps(self, entities: GridEntities, gaps: PromptSet, first_prompt: int) -> GridEntities:
        """USR: entities with the gaps filled by the masks found there."""
        with self._trace.span("usr"):
            best = gaps.masks.best_level()
            additional = replace(best, prompt_index=best.prompt_index + np.int32(first_prompt))
            return fill_gaps(entities, additional, self._settings.usr, self._settings.filters.min_area)

    def _render(self, entities: GridEntities, decoder: PromptDecoder, points_norm_xy: NDArray[np.float32]) -> EntityMap:
        s = self._settings
        with self._trace.span("upsampling"):
            guide = self._image.on_host(self._orig_hw) if s.render.refine else None
            labels = render_labels(entities, decoder.logits, self._geometry, points_norm_xy, guide, s.render)
            clean_up(labels, s.cleanup)
            return EntityMap.from_labels(labels, entities.score, entities.stage, in_place=True)
