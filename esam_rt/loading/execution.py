"""ExecutionConfig: the backend, the device and the limits that run the networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from esam_rt.errors import SettingsError, did_you_mean

Backend: TypeAlias = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
Device: TypeAlias = Literal["cpu", "cuda", "tensorrt"]
PrecisionName: TypeAlias = Literal["fp32", "fp16", "bf16"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
DEVICES: tuple[Device, ...] = get_args(Device)
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)


@dataclass(frozen=True)
class ExecutionConfig:
    """Backend, device and limits that run the networks.

    ``None`` means the default of the backend. Two fields get their value on construction: ``device`` and ``precision``.

    Attributes:
        backend: Library that runs the networks.
        device: Device of the backend. ``tensorrt`` is the GPU through the TensorRT provider of ONNX Runtime. Default:
            ``cpu`` for ONNX Runtime, ``cuda`` for TensorRT.
        precision: Number format of weights and activations. Default: ``fp32`` for ONNX Runtime, ``fp16`` for TensorRT.
        threads: CPU threads of one call. Default: one for each CPU that the process may use. The affinity mask and the
            quota of the control group limit them.
        engines: Folder of engines that ``esam-rt build-engine --out`` made. Default: the cache.
        build: If true, missing engines are built. If false, a missing engine is a ``ModelError``.
        memory_mb: Most memory of the device that the engines may take, in MB. It counts weights, inputs, outputs and
            scratch memory of one call, and the features of one image. It does not count Python, the libraries, CUDA
            itself, images and masks. Prompts are decoded in the largest batches that fit, one call at a time. ONNX
            Runtime on a GPU lowers the batch at run time. Default: nine tenths of the free memory for TensorRT, no
            limit for ONNX Runtime.
        cuda_graphs: If true, prompt batches that repeat run as CUDA graphs. Only for device ``cuda``.
        gpu: Index of the GPU, as CUDA counts them. It must be 0 for device ``cpu``.
        stream: CUDA stream of the caller. All work is then done on it. It is an object with ``__cuda_stream__``, or an
            address; a stream given by its address must outlive the engines. A default stream of CUDA is only waited
            for, when an array is taken.

    Raises:
        SettingsError: A name is unknown, a number is out of range, or two options exclude each other.
        InputError: ``stream`` is no CUDA stream.
    """

    backend: Backend = "onnxruntime"
    device: Device | None = None
    precision: PrecisionName | None = None
    threads: int | None = None
    engines: Path | None = None
    build: bool = True
    memory_mb: int | None = None
    cuda_graphs: bool = False
    gpu: int = 0
    stream: Any = None

    def __post_init__(self) -> None:
        is_tensorrt = self.backend != "onnxruntime"
        object.__setattr__(self, "device", self.device or ("cuda" if is_tensorrt else "cpu"))
        object.__setattr__(self, "precision", self.precision or ("fp16" if is_tensorrt else "fp32"))
        _check_name("backend", self.backend, BACKENDS)
        _check_name("device", str(self.device), DEVICES)
        _check_name("precision", str(self.precision), PRECISIONS)
        if is_tensorrt:
            self._check_tensorrt()
        else:
            self._check_onnxruntime()
        self._check_gpu()
        if self.memory_mb is not None and self.memory_mb < 1:
            raise SettingsError(f"Memory: found {self.memory_mb} MB, expected at least 1.")

    def _check_tensorrt(self) -> None:
        if self.device != "cuda":
            raise SettingsError(f"Backend {self.backend} runs on device cuda only, found device {self.device}.")
        if self.threads is not None:
            raise SettingsError(f"Threads are for the CPU, found backend {self.backend}.")

    def _check_onnxruntime(self) -> None:
        if self.engines is not None:
            raise SettingsError("Engines are for the backends tensorrt and tensorrt-rtx, found backend onnxruntime.")
        if self.precision == "bf16" and self.device != "tensorrt":
            raise SettingsError(
                f"Precision bf16: ONNX Runtime has no kernels for it on device {self.device}. Use fp32 or fp16, or a "
                "backend of TensorRT."
            )
        if self.memory_mb is not None and self.device == "tensorrt":
            raise SettingsError("Memory: device tensorrt has no memory limit. Use backend tensorrt.")
        if self.memory_mb is not None and self.cuda_graphs:
            raise SettingsError(
                "Memory: CUDA graphs of ONNX Runtime keep memory beside the limit. Leave out one of them, or use "
                "backend tensorrt."
            )

    def _check_gpu(self) -> None:
        if self.gpu < 0:
            raise SettingsError(f"GPU: found index {self.gpu}, expected 0 or more.")
        if self.gpu and self.device == "cpu":
            raise SettingsError(f"GPU: found index {self.gpu} with device cpu, expected device cuda.")
        if self.cuda_graphs and self.device != "cuda":
            raise SettingsError(f"CUDA graphs are for device cuda, found device {self.device}.")
        if self.stream is not None:
            if self.device == "cpu":
                raise SettingsError("Stream: found one with device cpu, expected device cuda.")
            from esam_rt.engines.cuda.array_interface import stream_address  # imports NumPy, which --help must not

            stream_address(self.stream)


def _check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Raise ``SettingsError`` with near names and all names: ``gpu`` is near ``cpu``."""
    if name not in known:
        near = did_you_mean(name, known)
        names = "" if "Known" in near else f" Known: {', '.join(known)}."
        raise SettingsError(f"Unknown {kind} {name!r}.{near}{names}")
