"""Loads a model on TensorRT or TensorRT-RTX."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from esam_rt.engines.cuda.gpu_image import GpuImages
from esam_rt.loading.events import ModelListener
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.memory_budget import MARGIN, batch_within, largest_batch, tensorrt_need
from esam_rt.loading.onnxruntime_loader import load_onnxruntime
from esam_rt.sam.models import ModelSpec
from esam_rt.sam.predictor import Engines, Sam


def load_tensorrt(row: ModelSpec, execution: ExecutionConfig, checkpoint: Path | None, listener: ModelListener) -> Sam:
    """Load a model on TensorRT or TensorRT-RTX; see `load_sam`."""
    from esam_rt.engines.cuda.device import CudaDevice
    from esam_rt.engines.onnxruntime.providers import import_onnxruntime
    from esam_rt.engines.tensorrt.builder import load_library
    from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
    from esam_rt.loading.engine_cache import engine_set, given_engines
    from esam_rt.loading.engine_check import check_once
    from esam_rt.loading.engine_record import NAMES, EngineSpec, Gpu
    from esam_rt.loading.engine_trust import check_trusted
    from esam_rt.loading.library_caches import runtime_cache
    from esam_rt.loading.stripped_weights import weights_of

    library, device = load_library(execution.backend), CudaDevice(stream=execution.stream)
    is_tested = execution.engines is None or checkpoint is not None  # else it is not known of what weights they are
    if is_tested:
        import_onnxruntime("cpu")  # which the self-test takes; not to be missed after minutes of building
    spec = EngineSpec(execution.backend, str(execution.precision), gpu=Gpu(device.capability, device.name))
    if execution.engines is not None:
        engines = given_engines(execution.engines, row, spec, library, checkpoint)
    else:
        engines = engine_set(row, spec, checkpoint, build=execution.build, listener=listener)
    runs_host_code = engines.sidecar["options"].get("version_compatible") is True
    if runs_host_code:
        check_trusted(engines.folder)
    weights = weights_of(engines, row, spec, checkpoint, listener)

    def load(name: str) -> TensorRTEngine:
        plan, digest = engines.plan(name), engines.sidecar["engines"][name]["sha256"]
        kernels = runtime_cache(execution.backend, library.__version__, device.name, digest)
        replays = execution.cuda_graphs and name == "decoder.engine"
        return TensorRTEngine(
            name, plan, library, device, kernels, replays, weights.get(name), runs_host_code=runs_host_code
        )

    encoder, decoder, masks, logits = map(load, NAMES)
    most = engines.sidecar["options"]["max_batch"]
    overlaps = execution.memory_mb is None  # in a budget one call runs at a time
    need = tensorrt_need(encoder, decoder, masks, logits, execution.cuda_graphs, overlaps)
    if execution.memory_mb is None:
        loaded = sum(engine.engine_bytes for engine in (encoder, decoder, masks, logits))
        batch = max(1, largest_batch(need, loaded + MARGIN * device.free_bytes(), most))
    else:
        batch = batch_within(execution.memory_mb, need, most, f"{row.name} in these engines of {execution.backend}")
    sam = Sam(
        replace(row, decode_batch=batch),
        Engines(encoder, decoder, masks, logits),
        engines.sidecar["checkpoint_sha256"],
        one_at_a_time=not overlaps,
        overlaps=overlaps,
        gpu_images=functools.partial(GpuImages, device),
    )
    if is_tested:
        if listener.writing is not None and not engines.sidecar.get("self_test"):
            listener.writing("self-test")
        check_once(
            engines, sam, lambda: load_onnxruntime(row, ExecutionConfig(), checkpoint, listener), execution.cuda_graphs
        )
    return sam
