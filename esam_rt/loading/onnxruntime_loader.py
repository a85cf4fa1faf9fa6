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
from esam_rt.loading.events import ModelListener
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.memory_budget import GPU_BATCH, batch_within, onnxruntime_need
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import Engines, Sam

GPU_ATTENTION = "concat"  # of ONNX Runtime on a GPU: a few large products; the CPU's form has hundreds of small ones


def load_onnxruntime(
    row: ModelSpec, execution: ExecutionConfig, checkpoint: Path | None, listener: ModelListener
) -> Sam:
    """Load a model on ONNX Runtime; see `load_sam`."""
    from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
    from esam_rt.engines.onnxruntime.providers import gpu_arena, import_onnxruntime

    on_gpu, budget_mb = execution.device != "cpu", execution.memory_mb
    batch = GPU_BATCH if on_gpu else row.decode_batch
    if budget_mb is not None and not on_gpu:
        batch = batch_within(
            budget_mb, onnxruntime_need(row, str(execution.precision)), batch, f"{row.name} on ONNX Runtime"
        )
    library = import_onnxruntime(str(execution.device))
    form = GPU_ATTENTION if on_gpu and row.attention else None
    graphs = onnx_model(row, checkpoint, str(execution.precision), form, listener)

    def load(path: Path) -> OnnxRuntimeEngine:
        options: dict[str, Any] = {}
        if execution.device == "cuda":
            # Of the masks' graph shapes are computed on the CPU; of the others a part there is a missing kernel.
            options = {"in_arena": budget_mb is not None, "whole": path != graphs.mask_head}
            options |= {"cuda_graphs": execution.cuda_graphs and path == graphs.decoder}
        if execution.device == "tensorrt":
            options = {"cache": _provider_cache(library, path, batch, execution, listener), "max_batch": batch}
        if execution.stream is not None:
            options["stream"] = execution.stream
        return OnnxRuntimeEngine(path, device=str(execution.device), threads=execution.threads, **options)

    with gpu_arena(budget_mb) if on_gpu and budget_mb is not None else nullcontext():
        engines = Engines(*map(load, (graphs.encoder, graphs.decoder, graphs.mask_head, graphs.logits)))
    one_at_a_time = budget_mb is not None
    return Sam(
        replace(row, decode_batch=batch),
        engines,
        graphs.checkpoint_sha256,
        one_at_a_time=one_at_a_time,
        # A graph has one piece of memory, which batches that wait for their masks would hold; a stream is for one call.
        overlaps=on_gpu and not one_at_a_time and not execution.cuda_graphs and execution.stream is None,
        gpu_images=functools.partial(_photos_beside, execution.stream) if on_gpu else None,
    )


def _provider_cache(
    library: ModuleType, graph: Path, batch: int, execution: ExecutionConfig, listener: ModelListener
) -> Path:
    """Where the TensorRT provider keeps its engine of a graph; ModelError where it has none and may build none."""
    from esam_rt.engines.cuda.api import name_and_capability
    from esam_rt.engines.onnxruntime.cuda_libraries import tensorrt_version
    from esam_rt.loading.library_caches import provider_cache

    made_for = (tensorrt_version(library), *name_and_capability())
    cache = provider_cache(library.__version__, graph, batch, made_for)
    if not any(cache.glob("*.engine")):
        if not execution.build:
            raise ModelError(f"{cache}: found no engine of {graph.name}, expected one; let it be built.")
        if listener.writing is not None:
            listener.writing(f"{graph.stem}.engine")
    return cache


def _photos_beside(stream: Any) -> GpuImages:
    """What scales photos on the GPU for an engine that does not use our device."""
    from esam_rt.engines.cuda.device import CudaDevice
    from esam_rt.engines.onnxruntime.capture_lock import CAPTURE_LOCK

    with CAPTURE_LOCK.shared():
        return GpuImages(CudaDevice(stream=stream), CAPTURE_LOCK.shared)
