"""Calls of CUDA through cuda-python, with what their statuses mean."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from esam_rt.errors import DeviceError, EngineError, EsamError, MissingDependencyError, OutOfMemoryError

_log = logging.getLogger("esam_rt")

NO_GPU = (
    "cudaErrorCompatNotSupportedOnDevice",
    "cudaErrorDevicesUnavailable",
    "cudaErrorInitializationError",
    "cudaErrorInsufficientDriver",
    "cudaErrorInvalidDevice",
    "cudaErrorNoDevice",
    "cudaErrorStubLibrary",
    "cudaErrorSystemDriverMismatch",
    "cudaErrorSystemNotReady",
)
DRIVER = (
    "cuGetErrorString",
    "cuLaunchKernel",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuuint64_t",
)
UNSAFE = ("cudaFreeHost", "cudaMemPoolDestroy", "cuModuleUnload")  # calls that would break a capture of their thread


class Calls:
    """Calls of the runtime with the GPU of `index`, statuses checked. runtime: in place of cuda-python's.
    MissingDependencyError without it."""

    def __init__(self, runtime: Any, index: int) -> None:
        self.runtime, self.index = runtime or cuda_python(), index

    def __call__(self, name: str, *args: Any) -> Any:
        """The value of a call, a tuple where it has several, None where it has none."""
        try:
            status, *values = getattr(self.runtime, name)(*args)
        except RuntimeError as e:  # of a cuda-python before 13 that finds no driver to load
            raise DeviceError(
                f"GPU {self.index}: found no NVIDIA driver ({e}); expected one. See esam-rt doctor."
            ) from e
        if status.name in ("cudaSuccess", "CUDA_SUCCESS"):
            return values[0] if len(values) == 1 else tuple(values) or None
        tell = self.runtime.cuGetErrorString if status.name.startswith("CUDA_") else self.runtime.cudaGetErrorString
        words = tell(status)[1].decode()
        if status.name in ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY"):
            raise OutOfMemoryError(
                f"GPU {self.index}: out of memory ({name}); use smaller batches or a smaller model, or end what else "
                "runs on this GPU."
            )
        if status.name in NO_GPU:
            age = ", as new as cuda-python; for an older one: pip install 'cuda-python<13'"
            raise DeviceError(
                f"GPU {self.index}: cannot be used: {words} ({status.name}); expected an NVIDIA GPU with its driver"
                f"{age if status.name == 'cudaErrorInsufficientDriver' else ''}. See esam-rt doctor."
            )
        raise EngineError(f"GPU {self.index}: {name} failed: {words} ({status.name}).")

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU this thread's current one, and the one before again at the end."""
        before = self("cudaGetDevice")
        if before == self.index:
            yield
            return
        self("cudaSetDevice", self.index)
        try:
            yield
        finally:
            self("cudaSetDevice", before)

    @contextmanager
    def current_for_driver(self) -> Iterator[None]:
        """`current` for calls of the driver, which unlike the runtime's give a new thread no context."""
        with self.current():
            self("cudaSetDevice", self.index)
            yield

    def release(self, name: str, *args: Any) -> None:
        """A call that gives something back, at any time: finalizers run when the garbage collector does. What fails is
        logged: nobody is there to raise it to."""
        try:
            with self.current_for_driver(), self._beside_captures() if name in UNSAFE else nullcontext():
                self(name, *args)
        except EsamError as e:
            _log.warning("%s", e)

    @contextmanager
    def _beside_captures(self) -> Iterator[None]:
        """Lets this thread do what is of no harm to a capture, though CUDA cannot know."""
        mode = self(
            "cudaThreadExchangeStreamCaptureMode", self.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        )
        try:
            yield
        finally:
            self("cudaThreadExchangeStreamCaptureMode", mode)


def name_and_capability(index: int = 0, runtime: Any = None) -> tuple[str, str]:
    """A GPU's name and compute capability, as `sm_86`; memory of it is not needed. Errors as of `CudaDevice`."""
    calls = Calls(runtime, index)
    count = calls("cudaGetDeviceCount")
    if not 0 <= index < count:
        raise DeviceError(f"GPU {index}: found {count} GPUs here, expected an index from 0 to {count - 1}.")
    properties = calls("cudaGetDeviceProperties", index)
    return properties.name.partition(b"\0")[0].decode(), f"sm_{properties.major}{properties.minor}"


def cuda_python() -> SimpleNamespace:
    """The names of `cuda.bindings.runtime`, and those of the driver that are used."""
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
        driver = importlib.import_module("cuda.bindings.driver")
    except ImportError as e:
        raise MissingDependencyError(
            f"cuda-python cannot be imported ({e}); get it with: pip install cuda-python"
        ) from e
    return SimpleNamespace(**vars(runtime), **{name: getattr(driver, name) for name in DRIVER})
