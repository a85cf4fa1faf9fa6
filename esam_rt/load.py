"""A model by name → its engines on a backend."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from esam_rt.artifacts import SILENT, ModelListener, onnx_model
from esam_rt.engines.cuda.array_interface import stream_address
from esam_rt.engines.cuda.gpu_image import GpuPhotos
from esam_rt.errors import ModelError, SettingsError, did_you_mean
from esam_rt.memory import GPU_BATCH, MARGIN, batch_within, largest_batch, onnxruntime_need, tensorrt_need
from esam_rt.sam.models import ModelRow, get_model
from esam_rt.sam.predictor import Engines, Sam

BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
DEVICES = ("cpu", "cuda", "tensorrt")
PRECISIONS = ("fp32", "fp16", "bf16")
GPU_ATTENTION = "concat"  # of ONNX Runtime on a GPU: a few large products; the CPU's form has hundreds of small ones


@dataclass(frozen=True)
class Placement:
    """What executes the networks, and where.

    backend: a name of BACKENDS. device: `cpu` or `cuda`; for ONNX Runtime also `tensorrt`, the GPU through its TensorRT
    provider; None = what the backend runs on, the CPU for ONNX Runtime. precision: None = fp32 for ONNX Runtime, fp16
    for TensorRT. threads: of a call on the CPU, default all cores. engines: a folder of `esam-rt build-engine --out`.
    build: whether engines that are missing may be built. memory_mb: what the engines may take of the device; prompts
    are decoded in the largest batches that fit, and one call runs at a time. Weights count, a call's inputs, outputs
    and scratch memory, and what the encoder leaves of one photo; Python, libraries, CUDA itself, photos and their masks
    do not. ONNX Runtime on a GPU finds out which batches fit. Default: on a GPU with TensorRT nine tenths of what is
    free, else no limit. cuda_graphs: on device `cuda`,
    whether batches that repeat are launched as CUDA graphs. stream: of a caller, on which the GPU then works, as
    address, which must outlive the engines, or object with `__cuda_stream__`, which is held; one of CUDA's default
    streams is waited for where an array is taken, and not worked on. SettingsError for names that do not exist or do
    not go together, and for what is out of range.
    """

    backend: str = "onnxruntime"
    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    engines: Path | None = None
    build: bool = True
    memory_mb: int | None = None
    cuda_graphs: bool = False
    stream: Any = None

    def __post_init__(self) -> None:
        runs_on_gpu = self.backend != "onnxruntime"
        object.__setattr__(self, "device", self.device or ("cuda" if runs_on_gpu else "cpu"))
        object.__setattr__(self, "precision", self.precision or ("fp16" if runs_on_gpu else "fp32"))
        for kind, known in (("backend", BACKENDS), ("device", DEVICES), ("precision", PRECISIONS)):
            name = getattr(self, kind)
            if name not in known:
                near = did_you_mean(name, known)  # `gpu` looks like `cpu`: all names follow
                names = "" if "Known" in near else f" Known: {', '.join(known)}."
                raise SettingsError(f"Unknown {kind} {name!r}.{near}{names}")
        if runs_on_gpu and self.device != "cuda":
            raise SettingsError(f"Backend {self.backend} runs on device cuda only, found device {self.device}.")
        if self.threads is not None and runs_on_gpu:
            raise SettingsError(f"Threads are for the CPU, found backend {self.backend}.")
        if self.engines is not None and not runs_on_gpu:
            raise SettingsError("Engines are for the backends tensorrt and tensorrt-rtx, found backend onnxruntime.")
        if self.cuda_graphs and self.device != "cuda":
            raise SettingsError(f"CUDA graphs are for device cuda, found device {self.device}.")
        if self.stream is not None:
            if self.device == "cpu":
                raise SettingsError("Stream: found one with device cpu, expected device cuda.")
            stream_address(self.stream)  # InputError for what is none
        if self.memory_mb is not None and self.memory_mb < 1:
            raise SettingsError(f"Memory: found {self.memory_mb} MB, expected at least 1.")
        if self.backend == "onnxruntime" and self.precision == "bf16" and self.device != "tensorrt":
            raise SettingsError(
                f"Precision bf16: found backend onnxruntime on device {self.device}, which lacks kernels for it; "
                "expected fp32 or fp16, or a backend of TensorRT."
            )
        if self.backend == "onnxruntime" and self.memory_mb is not None:
            if self.device == "tensorrt":
                raise SettingsError("Memory: found device tensorrt, whose memory has no limit; use backend tensorrt.")
            if self.cuda_graphs:
                raise SettingsError(
                    "Memory: found CUDA graphs of ONNX Runtime, which keep memory beside the limit; leave out one of "
                    "them, or use backend tensorrt."
                )


def load_sam(
    model: str,
    placement: Placement = Placement(),
    checkpoint: Path | str | None = None,
    listener: ModelListener = SILENT,
) -> Sam:
    """The engines of a model by name, exported and built first where need be.

    checkpoint: instead of the model's own. Errors: SettingsError for unknown names and a budget of memory that is too
    small, MissingDependencyError for a backend that is not installed, ModelError, EngineError and DeviceError for what
    cannot be loaded.
    """
    row = get_model(model)
    file = Path(checkpoint) if checkpoint is not None else None
    if placement.backend == "onnxruntime":
        return _onnxruntime(row, placement, file, listener)
    return _tensorrt(row, placement, file, listener)


def _onnxruntime(row: ModelRow, placement: Placement, checkpoint: Path | None, listener: ModelListener) -> Sam:
    from esam_rt.engines.onnxruntime.ort_engine import OnnxRuntimeEngine
    from esam_rt.engines.onnxruntime.providers import gpu_arena, import_onnxruntime

    on_gpu, budget_mb = placement.device != "cpu", placement.memory_mb
    batch = GPU_BATCH if on_gpu else row.decode_batch
    if budget_mb is not None and not on_gpu:
        batch = batch_within(
            budget_mb, onnxruntime_need(row, str(placement.precision)), batch, f"{row.name} on ONNX Runtime"
        )
    library = import_onnxruntime(str(placement.device))
    form = GPU_ATTENTION if on_gpu and row.attention else None
    graphs = onnx_model(row, checkpoint, str(placement.precision), form, listener)

    def load(path: Path) -> OnnxRuntimeEngine:
        options: dict[str, Any] = {}
        if placement.device == "cuda":
            # Of the masks' graph shapes are computed on the CPU; of the others a part there is a missing kernel.
            options = {"in_arena": budget_mb is not None, "whole": path != graphs.masks}
            options |= {"cuda_graphs": placement.cuda_graphs and path == graphs.decoder}
        if placement.device == "tensorrt":
            options = {"cache": _provider_cache(library, path, batch, placement, listener), "max_batch": batch}
        if placement.stream is not None:
            options["stream"] = placement.stream
        return OnnxRuntimeEngine(path, device=str(placement.device), threads=placement.threads, **options)

    with gpu_arena(budget_mb) if on_gpu and budget_mb is not None else nullcontext():
        engines = Engines(*map(load, (graphs.encoder, graphs.decoder, graphs.masks, graphs.logits)))
    one_at_a_time = budget_mb is not None
    return Sam(
        replace(row, decode_batch=batch),
        engines,
        graphs.checkpoint_sha256,
        one_at_a_time=one_at_a_time,
        # A graph has one piece of memory, which batches that wait for their masks would hold; a stream is for one call.
        overlaps=on_gpu and not one_at_a_time and not placement.cuda_graphs and placement.stream is None,
        gpu_photos=functools.partial(_photos_beside, placement.stream) if on_gpu else None,
    )


def _provider_cache(
    library: ModuleType, graph: Path, batch: int, placement: Placement, listener: ModelListener
) -> Path:
    """Where the TensorRT provider keeps its engine of a graph; ModelError where it has none and may build none."""
    from esam_rt.engines.cuda.api import name_and_capability
    from esam_rt.engines.onnxruntime.cuda_libraries import tensorrt_version
    from esam_rt.library_caches import provider_cache

    made_for = (tensorrt_version(library), *name_and_capability())
    cache = provider_cache(library.__version__, graph, batch, made_for)
    if not any(cache.glob("*.engine")):
        if not placement.build:
            raise ModelError(f"{cache}: found no engine of {graph.name}, expected one; let it be built.")
        if listener.writing is not None:
            listener.writing(f"{graph.stem}.engine")
    return cache


def _photos_beside(stream: Any) -> GpuPhotos:
    """What scales photos on the GPU for an engine that does not use our device."""
    from esam_rt.engines.cuda.device import CudaDevice
    from esam_rt.engines.onnxruntime.providers import GATE

    with GATE.shared():
        return GpuPhotos(CudaDevice(stream=stream), GATE.shared)


def _tensorrt(row: ModelRow, placement: Placement, checkpoint: Path | None, listener: ModelListener) -> Sam:
    from esam_rt.engine_store import NAMES, EngineSpec, Gpu, check_trusted, engine_set, given_engines, weights_of
    from esam_rt.engines.cuda.device import CudaDevice
    from esam_rt.engines.onnxruntime.providers import import_onnxruntime
    from esam_rt.engines.tensorrt.builder import load_library
    from esam_rt.engines.tensorrt.trt_engine import TensorRTEngine
    from esam_rt.library_caches import runtime_cache
    from esam_rt.self_test import test_once

    library, device = load_library(placement.backend), CudaDevice(stream=placement.stream)
    is_tested = placement.engines is None or checkpoint is not None  # else it is not known of what weights they are
    if is_tested:
        import_onnxruntime("cpu")  # which the self-test takes; not to be missed after minutes of building
    spec = EngineSpec(placement.backend, str(placement.precision), gpu=Gpu(device.capability, device.name))
    if placement.engines is not None:
        engines = given_engines(placement.engines, row, spec, library, checkpoint)
    else:
        engines = engine_set(row, spec, checkpoint, build=placement.build, listener=listener)
    runs_host_code = engines.sidecar["options"].get("version_compatible") is True
    if runs_host_code:
        check_trusted(engines.folder)
    weights = weights_of(engines, row, spec, checkpoint, listener)

    def load(name: str) -> TensorRTEngine:
        plan, digest = engines.plan(name), engines.sidecar["engines"][name]["sha256"]
        kernels = runtime_cache(placement.backend, library.__version__, device.name, digest)
        replays = placement.cuda_graphs and name == "decoder.engine"
        return TensorRTEngine(
            name, plan, library, device, kernels, replays, weights.get(name), runs_host_code=runs_host_code
        )

    encoder, decoder, masks, logits = map(load, NAMES)
    most = engines.sidecar["options"]["max_batch"]
    overlaps = placement.memory_mb is None  # in a budget one call runs at a time
    need = tensorrt_need(encoder, decoder, masks, logits, placement.cuda_graphs, overlaps)
    if placement.memory_mb is None:
        loaded = sum(engine.plan_bytes for engine in (encoder, decoder, masks, logits))
        batch = max(1, largest_batch(need, loaded + MARGIN * device.free_bytes(), most))
    else:
        batch = batch_within(placement.memory_mb, need, most, f"{row.name} in these engines of {placement.backend}")
    sam = Sam(
        replace(row, decode_batch=batch),
        Engines(encoder, decoder, masks, logits),
        engines.sidecar["checkpoint_sha256"],
        one_at_a_time=not overlaps,
        overlaps=overlaps,
        gpu_photos=functools.partial(GpuPhotos, device),
    )
    if is_tested:
        if listener.writing is not None and not engines.sidecar.get("self_test"):
            listener.writing("self-test")
        test_once(engines, sam, lambda: _onnxruntime(row, Placement(), checkpoint, listener), placement.cuda_graphs)
    return sam
