"""EntitySegmenter: image to EntityMap."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar

import numpy as np

from esam_rt.entity_map import EntityMap
from esam_rt.errors import DecodingCancelledError, EngineError, InputError, SettingsError, did_you_mean
from esam_rt.kernels.warmup import METHOD_MODULES, entry_kernels
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.loader import load_sam
from esam_rt.method import superpixels as superpixel_stage
from esam_rt.method.coherent_prompts import CoherentPrompts
from esam_rt.method.tiling import segment_windows
from esam_rt.method.time_budget import Clock, Costs, TimeBudget, check_deadline
from esam_rt.pipeline import Pipeline, SuperpixelFunction
from esam_rt.rounding import ceil_div
from esam_rt.sam.cancel_token import CancelToken
from esam_rt.sam.encode_once import EncodeOnce
from esam_rt.sam.encoded_image import EncodedImage
from esam_rt.sam.entity_features import entity_features
from esam_rt.sam.images import Image
from esam_rt.sam.point_grids import Latitudes
from esam_rt.sam.promptable import Promptable
from esam_rt.settings import Settings

if TYPE_CHECKING:
    from esam_rt.run.drop_policy import Policy
    from esam_rt.run.stream import FrameSource, Stream, Tracking

METHODS = {
    "e-sam": "E-SAM: MMG, EMR and USR",
    "amg": "baseline: SAM's automatic mask generation",
    "sam-o": "baseline: SAM's object level alone",
    "superpixels": "baseline: superpixels alone; the model is loaded but not used",
}
Result = TypeVar("Result")
NO_TIME_S = 1e-9

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
        clock: Returns the seconds that deadlines count.
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
        clock: Clock = time.perf_counter,
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
        self._costs, self._clock = Costs(), clock
        self._process_id = os.getpid()

    def __call__(
        self,
        image_hwc_rgb: Any,
        *,
        deadline_s: float | None = None,
        cancel: CancelToken | None = None,
        features: bool = False,
        coherent: CoherentPrompts | None = None,
    ) -> EntityMap:
        """Segment an image.

        Args:
            image_hwc_rgb: uint8 [H, W, 3], RGB, upright: a NumPy array. A backend on the GPU also takes an array of
                PyTorch, CuPy, Numba, JAX or any library with DLPack or ``__cuda_array_interface__``. Such an array is
                scaled on the GPU, and its rows may lie apart. With ``render.refine`` it is also copied to the host. An
                image from ``encode`` is not encoded again.
            deadline_s: Seconds from now. The result is then the best map that can be had by that time. Its
                ``complete`` is False if prompts were left out. Without time for a single prompt it is empty. The tiles
                of a large photo share the time that is left. Default: no limit.
            cancel: Another thread sets it to stop the work.
            features: Also return ``EntityMap.features``.
            coherent: The frames before of the same camera. They choose the prompts, and this frame is added to them.

        Returns:
            The entities, on the host.

        Raises:
            InputError: The array is of another kind.
            SettingsError: ``deadline_s`` is no number above 0, the method has no encoder to make ``features``, or the
                settings or the method cannot be used with ``coherent``.
            EngineError: The segmenter is closed, or was made in another process.
            DecodingCancelledError: ``cancel`` was set, or ``close`` was called meanwhile.
        """
        self._check_usable()
        if features and self.method == "superpixels":
            raise SettingsError("features: the method superpixels has no encoder. Leave it out, or use e-sam.")
        if features and self.settings.panorama.enabled:
            raise SettingsError("features: a panorama is encoded with its edge twice. Leave features out.")
        if coherent is not None and (
            self.method != "e-sam" or self.settings.panorama.enabled or self.settings.is_tiled
        ):
            raise SettingsError(
                'track="prompts": works with the method e-sam, without tiles and panorama. Use track=True.'
            )
        given = image_hwc_rgb if isinstance(image_hwc_rgb, EncodedImage) else None
        if given is not None and given.image is None:
            raise InputError("Photo: found one that Sam.encode made, expected one of EntitySegmenter.encode.")
        check_deadline(deadline_s)
        image = self._sam.check_image(image_hwc_rgb if given is None else given.image)
        whole, is_panorama = EncodeOnce(self._sam, given), self.settings.panorama.enabled
        end_s = math.inf if deadline_s is None else self._clock() + deadline_s
        tokens = [self._closing] if cancel is None else [self._closing, cancel]
        with CancelToken(*tokens) as stop:  # an interrupt does not wait for the rest of the gallery

            def segment(window: Image, latitudes: Latitudes | None, windows_left: int) -> EntityMap:
                hw = window.shape[0], window.shape[1]
                share_s = None if deadline_s is None else max((end_s - self._clock()) / windows_left, NO_TIME_S)
                budget = TimeBudget(self._costs, hw, self._sam.batch_size, share_s, self._clock)
                encode = whole if hw == image.shape[:2] and not is_panorama else EncodeOnce(self._sam)
                sam, settings, find, start = self._sam, self.settings, self._superpixels, self._start
                pipeline = Pipeline(sam, settings, window, encode, find, start, budget, stop, latitudes, coherent)
                return pipeline.run(self.method)

            with _closed_meanwhile(stop):
                result = segment_windows(image, self.settings, segment, stop.check)
        if features and whole.encoded is not None:
            result = replace(result, features=entity_features(result, whole.encoded))
        if coherent is not None and result.prompts_decoded:  # without time for a prompt, the frame before still counts
            coherent.follow(result)
        return result

    def encode(self, image_hwc_rgb: Any) -> EncodedImage:
        """Encode an image, to segment it later or to prompt ``sam`` with it.

        Args:
            image_hwc_rgb: See a call. Do not change the array before the image is segmented.

        Raises:
            InputError: The array is of another kind.
            EngineError: The segmenter is closed, or was made in another process.
        """
        self._check_usable()
        image = self._sam.check_image(image_hwc_rgb)
        return replace(self._sam.encode(image), image=image)

    def prepare(self, image_hwc_rgb: Any) -> EncodedImage | Image:
        """Do the work on an image that needs nothing of other images, to segment it later: encode it, find superpixels.

        A stream does this with the next frame. With tiles or a panorama there is no such work.

        Args:
            image_hwc_rgb: See a call. Do not change the array before the image is segmented.

        Returns:
            What a call takes in place of the image.

        Raises:
            InputError: The array is of another kind.
            EngineError: The segmenter is closed, or was made in another process.
            DecodingCancelledError: ``close`` was called meanwhile.
        """
        self._check_usable()
        image, s = self._sam.check_image(image_hwc_rgb), self.settings
        if self.method == "superpixels" or s.is_tiled or s.panorama.enabled:
            return image
        budget = TimeBudget(self._costs, (image.shape[0], image.shape[1]), self._sam.batch_size, None, self._clock)
        encode, find = EncodeOnce(self._sam), self._superpixels
        pipeline = Pipeline(self._sam, s, image, encode, find, self._start, budget, self._closing)
        with _closed_meanwhile(self._closing):
            return pipeline.prepare(self.method)

    def stream(
        self,
        source: FrameSource | Mapping[str, FrameSource] | None = None,
        *,
        policy: Policy = "every",
        max_in_flight: int = 2,
        deadline_s: float | None = None,
        track: Tracking = False,
        on_error: Literal["report", "raise"] = "report",
    ) -> Stream:
        """Segment the frames of one or several live sources. ``esam_rt.run.Stream`` explains each option.

        Args:
            source: Frames, or arrays uint8 [H, W, 3] in RGB. A mapping gives several sources their names.
            policy: ``every`` frame in order, or the ``latest`` one.
            max_in_flight: Frames of a source that are held at most, with ``every``.
            deadline_s: Seconds that one frame may take.
            track: Give entities identities. ``prompts`` also lets each frame choose the prompts of the next one.
            on_error: ``report`` an error as a result, or ``raise`` it.

        Returns:
            An iterator over results, and a context manager.

        Raises:
            SettingsError: An option is wrong.
        """
        from esam_rt.run.stream import Stream

        return Stream(
            self,
            source,
            policy=policy,
            max_in_flight=max_in_flight,
            deadline_s=deadline_s,
            track=track,
            on_error=on_error,
        )

    def _check_usable(self) -> None:
        """EngineError if the segmenter is closed, or made in another process."""
        if self.is_closed:
            raise EngineError("EntitySegmenter: used after close().")
        if os.getpid() != self._process_id:  # a forked child has none of the threads, and would wait for ever
            raise EngineError(f"EntitySegmenter: made in process {self._process_id}, used in {os.getpid()}. {ONE_EACH}")

    def warm_up(self, sizes_hw: Iterable[tuple[int, int]] = ((480, 640),)) -> None:
        """Compile the kernels and segment a picture of each size, so that the first image takes as long as the others.

        Deadlines also learn their first costs from it.

        Args:
            sizes_hw: Heights and widths of the images that will come, in pixels.

        Raises:
            EsamError: As a call.
        """
        for kernel in entry_kernels(METHOD_MODULES[self.method]):
            kernel.compile()
        for h, w in sizes_hw:
            image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
            image = image.repeat(ceil_div(h, 5), axis=0).repeat(ceil_div(w, 7), axis=1)[:h, :w]
            if self.method != "superpixels":  # the picture may have no mask, and the mask head would not run
                encoded = self._sam.encode(image)
                point = np.full((1, 2), 0.5, np.float32)
                self._sam.decode(encoded, point, 0, None)
                self._sam.logits(encoded, point, np.zeros(1, np.uint8))
            self(image)

    def _start(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Run a function in another thread. DecodingCancelledError after ``close``."""
        try:
            return self._pool.submit(function, *arguments)
        except RuntimeError:  # the pool takes no more work, or there is no thread left
            self._closing.check()
            raise

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


@contextmanager
def _closed_meanwhile(stop: CancelToken) -> Iterator[None]:
    """Turn the error of an engine that close() in another thread took away into DecodingCancelledError."""
    try:
        yield
    except EngineError as e:
        if stop.is_cancelled:
            raise DecodingCancelledError("Decoding was cancelled, because the segmenter was closed.") from e
        raise
