"""ONNX Runtime, on the CPU or through its CUDA provider."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np

from esam_rt.errors import (
    DeviceError,
    EngineError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    SettingsError,
    did_you_mean,
)
from esam_rt.graph_files import check_graph_file

from .base import Array, Tensor, check_feed

_log = logging.getLogger("esam_rt")

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}  # fp32 is fp32, as everywhere
EXTRAS = {"cpu": "cpu", "cuda": "gpu"}
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
OUT_OF_MEMORY = ("failed to allocate", "out of memory", "alloc_failed", "bad_alloc", "bad allocation")


@dataclass(frozen=True)
class _Kept:
    """An output in ONNX Runtime's own memory, on the CPU or the GPU; see `Kept`."""

    value: Any
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())


class OnnxRuntimeEngine:
    """An ONNX file behind the `Engine` protocol; `infer` may be called from several threads at once.

    device: `cpu` or `cuda`. threads: of one call on the CPU, default all cores. Errors: SettingsError for an unknown
    device or threads below 1, MissingDependencyError without ONNX Runtime, DeviceError for a device that is out of
    memory or not to be had (never a quiet run on the CPU), ModelError for a file that is missing or no ONNX model.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        if device not in PROVIDERS:
            raise SettingsError(f"Unknown device {device!r}.{did_you_mean(device, PROVIDERS)}")
        if threads is not None and threads < 1:
            raise SettingsError(f"threads: found {threads}, expected at least 1.")
        try:
            import onnxruntime
        except ImportError as e:
            raise MissingDependencyError(
                f"ONNX Runtime is not installed; get it with: pip install 'esam-rt[{EXTRAS[device]}]'"
            ) from e
        provider, available = PROVIDERS[device], onnxruntime.get_available_providers()
        if provider not in available:
            raise DeviceError(
                f"Device {device}: this ONNX Runtime has {', '.join(available)} but not {provider}; get it with: "
                f"pip uninstall onnxruntime && pip install 'esam-rt[{EXTRAS[device]}]'"
            )
        check_graph_file(path)
        if device == "cuda":
            _load_cuda()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised; the log on stderr would say it twice
        # Spinning threads hold cores that superpixels and kernels need: with another process on the same two cores, the
        # decoder did 6 to 50 % more prompts/s at batches of 8 and 16 without.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A pattern is one piece of memory for a whole call, which from the second call on is taken beside what the
        # arena has: over several photos ViT-B takes 930 MB without and 1,365 with, in the same time.
        options.enable_mem_pattern = False
        if device == "cpu":
            _share_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
            # Weights outside the arena: ViT-B takes 90 MB less.
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        self._name, self._device = path.name, device
        try:
            self._session: Any = onnxruntime.InferenceSession(
                path, options, providers=[(provider, PROVIDER_OPTIONS[device])], enable_fallback=False
            )
        except _runtime_errors() as e:
            if _is_out_of_memory(e):
                raise OutOfMemoryError(f"{path}: not enough memory on device {device} to load it: {e}") from e
            raise ModelError(f"{path}: expected a whole ONNX model, found one that cannot be loaded: {e}") from e
        if provider not in self._session.get_providers():
            raise DeviceError(
                f"Device {device}: ONNX Runtime could not start {provider}; expected an NVIDIA GPU with driver, CUDA "
                "and cuDNN of the versions that this onnxruntime-gpu names. Use device cpu, or see esam-rt doctor."
            )
        self.inputs = tuple(_tensor(path, t) for t in self._session.get_inputs())
        self.outputs = tuple(_tensor(path, t) for t in self._session.get_outputs())

    def infer(self, feed: Mapping[str, Array], keep: Collection[str] = ()) -> dict[str, Any]:
        """Run once; see `Engine`. OutOfMemoryError when the device is out of memory."""
        session = self._session  # a close() meanwhile does not pull it away
        if session is None:
            raise EngineError(f"{self._name}: used after close().")
        check_feed(self._name, self.inputs, feed)
        try:
            binding = session.io_binding()
            for name, array in feed.items():
                if isinstance(array, _Kept):
                    binding.bind_ortvalue_input(name, array.value)
                elif isinstance(array, np.ndarray | np.generic):
                    # asarray: ONNX Runtime takes a scalar as an array of no dimensions only.
                    binding.bind_cpu_input(name, np.ascontiguousarray(array).reshape(array.shape))
                else:
                    raise EngineError(f"{self._name}: input {name}: was kept by another backend.")
            for t in self.outputs:
                binding.bind_output(t.name, self._device if t.name in keep else "cpu")
            session.run_with_iobinding(binding)
            values = dict(zip((t.name for t in self.outputs), binding.get_outputs(), strict=True))
            return {
                t.name: _Kept(values[t.name], t.dtype) if t.name in keep else values[t.name].numpy()
                for t in self.outputs
            }
        except _runtime_errors() as e:
            if _is_out_of_memory(e):
                raise OutOfMemoryError(
                    f"{self._name}: out of memory; use smaller batches or a smaller model: {e}"
                ) from e
            raise EngineError(f"{self._name}: ONNX Runtime failed: {e}") from e

    def close(self) -> None:
        """Release the session; see `Engine`. On the CPU the arena that all sessions share keeps its memory for later
        ones."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@functools.cache
def _share_memory() -> None:
    """Let all sessions on the CPU allocate from one arena: what the encoder needed, the decoder uses again. ViT-B with
    its decoder at 4 prompts a call: 929 MB at the peak against 1,250 with an arena each."""
    import onnxruntime

    arena, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, default)
    # Already registered by somebody else in this process: then that one is shared.
    with contextlib.suppress(*_runtime_errors()):
        onnxruntime.create_and_register_allocator(memory, None)


@functools.cache
def _load_cuda() -> None:
    """Load CUDA and cuDNN from where pip puts them. What it prints of those that are missing is not for stdout: the
    session does not start then, and says so."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # 1.21
        with contextlib.redirect_stdout(io.StringIO()) as words:
            onnxruntime.preload_dlls()
        _log.debug("%s", words.getvalue())


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own exceptions share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (t for t in vars(state).values() if isinstance(t, type) and issubclass(t, Exception))
    return (*own, RuntimeError, MemoryError)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY)


def _tensor(path: Path, node: Any) -> Tensor:
    """Name, dtype and shape of a session's input or output."""
    if node.type not in DTYPES:
        raise ModelError(f"{path}: {node.name}: found {node.type}, expected one of {', '.join(DTYPES)}.")
    shape = tuple(extent if isinstance(extent, int) else None for extent in node.shape)
    return Tensor(node.name, np.dtype(DTYPES[node.type]), shape)
