"""Loads a model on ONNX Runtime."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from esam_rt.engines.cuda.gpu_image import GpuImages
from esam_rt.errors import ModelError
from esam_rt.loading.events import Building, OnEvent, ignore
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.memory_budget import GPU_BATCH, batch_within, onnxruntime_need
from esam_rt.loading.onnx_cache import OnnxModel, onnx_model
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import Engines, Sam

GPU_ATTENTION = "concat"  # a few large matrix products; the form for CPUs has hundreds of small ones


def load_onnxruntime(
    row: ModelSpec, execution: ExecutionConfig, checkpoint: Path | None, on_event: OnEvent = ignore
) -> Sam:
    """Load a model on ONNX Runtime.

    Args:
        row: The model.
        execution: Device and limits; its backend is ``onnxruntime``.
        checkpoint: Weights in place of the model's own.
        on_event: Called while the model is fetched and exported.

    Returns:
        The loaded model.

    Raises:
        EsamError: As ``load_sam``.
    """
    from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
    from esam_rt.engines.onnxruntime.providers import gpu_arena, import_onnxruntime

    device, on_gpu, has_budget = str(execution.device), execution.device != "cpu", execution.memory_mb is not None
    batch = _batch(row, execution)
    library = import_onnxruntime(device)
    form = GPU_ATTENTION if on_gpu and row.attention else None
    graphs = onnx_model(row, checkpoint, str(execution.precision), form, on_event)

    def load(path: Path) -> OnnxRuntimeEngine:
        options = _engine_options(path, graphs, execution)
        if device == "tensorrt":
            options |= {"cache": _provider_cache(library, path, batch, execution, on_event), "max_batch": batch}
        return OnnxRuntimeEngine(path, device=device, threads=execution.threads, **options)

    limit_mb = execution.memory_mb if on_gpu else None
    with nullcontext() if limit_mb is None else gpu_arena(limit_mb, execution.gpu):
        engines = Engines(*map(load, graphs))
    return Sam(
        replace(row, decode_batch=batch),
        engines,
        graphs.checkpoint_sha256,
        one_at_a_time=has_budget,
        # A CUDA graph has one piece of memory, which waiting batches would hold. A stream runs one call at a time.
        overlaps=on_gpu and not has_budget and not execution.cuda_graphs and execution.stream is None,
        gpu_images=functools.partial(gpu_images, execution.stream, execution.gpu) if on_gpu else None,
    )


def gpu_images(stream: Any, gpu: int = 0) -> GpuImages:
    """Make what scales images on the GPU, for engines that do not use a ``CudaDevice``.

    Args:
        stream: CUDA stream of the caller, or ``None``.
        gpu: Index of the GPU.

    Returns:
        The scaler. It waits while another thread captures a CUDA graph.
    """
    from esam_rt.engines.cuda.device import CudaDevice
    from esam_rt.engines.onnxruntime.capture_lock import CAPTURE_LOCK

    with CAPTURE_LOCK.shared():
        return GpuImages(CudaDevice(index=gpu, stream=stream), CAPTURE_LOCK.shared)


def _batch(row: ModelSpec, execution: ExecutionConfig) -> int:
    """Prompts of a decoder call. On a GPU the batch is lowered at run time if the memory ends."""
    if execution.device != "cpu":
        return GPU_BATCH
    if execution.memory_mb is None:
        return row.decode_batch
    need = onnxruntime_need(row, str(execution.precision))
    return batch_within(execution.memory_mb, need, row.decode_batch, f"{row.name} on ONNX Runtime")


def _engine_options(path: Path, graphs: OnnxModel, execution: ExecutionConfig) -> dict[str, Any]:
    """Options of one engine that depend on the graph and the device."""
    options: dict[str, Any] = {}
    if execution.device == "cuda":
        options = {
            "in_arena": execution.memory_mb is not None,
            # The mask graph computes shapes on the CPU. In the other graphs, a CPU node means a missing CUDA kernel.
            "whole": path != graphs.mask_head,
            "cuda_graphs": execution.cuda_graphs and path == graphs.decoder,
        }
    if execution.gpu:
        options["gpu"] = execution.gpu
    if execution.stream is not None:
        options["stream"] = execution.stream
    return options


def _provider_cache(
    library: ModuleType, graph: Path, batch: int, execution: ExecutionConfig, on_event: OnEvent
) -> Path:
    """Folder in which the TensorRT provider keeps its engine of a graph. ``ModelError`` if a build is not allowed."""
    from esam_rt.engines.cuda.api import name_and_capability
    from esam_rt.engines.onnxruntime.cuda_libraries import tensorrt_version
    from esam_rt.loading.library_caches import provider_cache

    made_for = (tensorrt_version(library), *name_and_capability(execution.gpu))
    cache = provider_cache(library.__version__, graph, batch, made_for)
    if not any(cache.glob("*.engine")):
        if not execution.build:
            raise ModelError(f"{cache}: found no engine of {graph.name}, expected one. Run without --no-build.")
        on_event(Building(f"{graph.stem}.engine"))
    return cache
