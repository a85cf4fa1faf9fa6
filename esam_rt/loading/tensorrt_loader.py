"""Loads a model on TensorRT or TensorRT-RTX."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from esam_rt.engines.cuda.gpu_image import GpuImages
from esam_rt.loading.events import OnEvent, SelfTesting, ignore
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.memory_budget import MARGIN, batch_within, largest_batch, tensorrt_need
from esam_rt.loading.onnxruntime_loader import load_onnxruntime
from esam_rt.networks import ENGINES_BY_NETWORK, Networks
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import Engines, Sam

if TYPE_CHECKING:
    from esam_rt.engines.cuda.device import CudaDevice
    from esam_rt.engines.tensorrt.loaded_engine import Weights
    from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
    from esam_rt.loading.engine_record import EngineSet
    from esam_rt.loading.engine_spec import EngineSpec


def load_tensorrt(
    row: ModelSpec, execution: ExecutionConfig, checkpoint: Path | None, on_event: OnEvent = ignore
) -> Sam:
    """Load a model on TensorRT or TensorRT-RTX, and test its engines if they were not tested before.

    Args:
        row: The model.
        execution: Device and limits; its backend is ``tensorrt`` or ``tensorrt-rtx``.
        checkpoint: Weights in place of the model's own.
        on_event: Called while the model is fetched, exported, built and tested.

    Returns:
        The loaded model.

    Raises:
        EsamError: As ``load_sam``.
    """
    from esam_rt.engines.cuda.device import CudaDevice
    from esam_rt.engines.onnxruntime.providers import import_onnxruntime
    from esam_rt.engines.tensorrt.builder import load_library
    from esam_rt.loading.engine_self_test import check_once
    from esam_rt.loading.stripped_weights import weights_of

    library = load_library(execution.backend)
    device = CudaDevice(index=execution.gpu, stream=execution.stream)
    knows_weights = execution.engines is None or checkpoint is not None
    if knows_weights:
        import_onnxruntime("cpu")  # the self-test needs it: fail now, not after minutes of building
    spec, engine_files = _find_engines(row, execution, checkpoint, library, device, on_event)
    weights = weights_of(engine_files, row, spec, checkpoint, on_event)
    engines = _load_engines(engine_files, execution, library, device, weights)
    overlaps = execution.memory_mb is None  # with a limit, one call runs at a time
    batch = _batch(row, execution, engines, engine_files.record.max_batch, device)
    sam = Sam(
        replace(row, decode_batch=batch),
        Engines(*engines),
        engine_files.record.checkpoint_sha256,
        one_at_a_time=not overlaps,
        overlaps=overlaps,
        gpu_images=functools.partial(GpuImages, device),
    )
    if knows_weights:
        if not engine_files.record.self_test:
            on_event(SelfTesting(row.name))

        def reference() -> Sam:
            return load_onnxruntime(row, ExecutionConfig(), checkpoint, on_event)

        check_once(engine_files, sam, reference, execution.cuda_graphs)
    return sam


def _find_engines(
    row: ModelSpec,
    execution: ExecutionConfig,
    checkpoint: Path | None,
    library: ModuleType,
    device: CudaDevice,
    on_event: OnEvent,
) -> tuple[EngineSpec, EngineSet]:
    """The wanted engines and those of the user's folder or the cache, built if needed; host code is trusted or not."""
    from esam_rt.loading.engine_cache import engine_set, given_engines
    from esam_rt.loading.engine_spec import EngineSpec, Gpu
    from esam_rt.loading.engine_trust import check_trusted

    gpu = Gpu(device.capability, device.name)
    spec = EngineSpec(execution.backend, str(execution.precision), gpu=gpu, gpu_index=execution.gpu)
    if execution.engines is not None:
        found = given_engines(execution.engines, row, spec, library, checkpoint)
    else:
        found = engine_set(row, spec, checkpoint, build=execution.build, on_event=on_event)
    if found.record.is_version_compatible:
        check_trusted(found.folder)
    return spec, found


def _load_engines(
    found: EngineSet,
    execution: ExecutionConfig,
    library: ModuleType,
    device: CudaDevice,
    weights: Mapping[str, Weights],
) -> Networks[TensorRTEngine]:
    """Read the engines, each with its cache of compiled kernels."""
    from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
    from esam_rt.loading.library_caches import runtime_cache

    record = found.record

    def load(name: str) -> TensorRTEngine:
        plan = found.plan(name)
        kernels = runtime_cache(execution.backend, library.__version__, device.name, record.engines[name].sha256)
        captures = execution.cuda_graphs and name == ENGINES_BY_NETWORK.decoder
        return TensorRTEngine(
            name,
            plan,
            library,
            device,
            kernels,
            captures,
            weights.get(name),
            runs_host_code=record.is_version_compatible,
        )

    return ENGINES_BY_NETWORK.map(load)


def _batch(
    row: ModelSpec, execution: ExecutionConfig, engines: Networks[TensorRTEngine], most: int, device: CudaDevice
) -> int:
    """Prompts of a decoder call: as many as fit into the limit, or into the free memory of the GPU."""
    need = tensorrt_need(engines, execution.cuda_graphs, overlaps=execution.memory_mb is None)
    if execution.memory_mb is not None:
        return batch_within(execution.memory_mb, need, most, f"{row.name} in these engines of {execution.backend}")
    loaded = sum(engine.engine_bytes for engine in engines)
    return max(1, largest_batch(need, loaded + MARGIN * device.free_bytes(), most))
