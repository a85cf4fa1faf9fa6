"""What executes the networks, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_rt.engines.cuda.array_interface import stream_address
from esam_rt.errors import SettingsError, did_you_mean

BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")
DEVICES = ("cpu", "cuda", "tensorrt")
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class ExecutionConfig:
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
