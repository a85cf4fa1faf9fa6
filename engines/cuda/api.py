"""Calls of CUDA's runtime and driver through cuda-python, with checked statuses.

cuda.core has most of what this module and ``device`` do. Moving to it needs tests on a real GPU.
"""

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
UNSAFE_IN_CAPTURE = ("cudaFreeHost", "cudaMemPoolDestroy", "cuModuleUnload")  # would break a capture by their thread


class Calls:
    """Calls of CUDA for one GPU. Call it with the name of a function and its arguments.

    Args:
        runtime: Stand-in for cuda-python, for tests. None: cuda-python.
        index: Index of the GPU.

    Raises:
        MissingDependencyError: cuda-python is missing.
    """

    def __init__(self, runtime: Any, index: int) -> None:
        self.runtime, self.index = runtime or cuda_python(), index

    def __call__(self, name: str, *args: Any) -> Any:
        """Call a function and check its status.

        Args:
            name: Name of the function of CUDA's runtime or driver.
            args: Its arguments.

        Returns:
            The value of the call. A tuple if there are several, None if there is none.

        Raises:
            OutOfMemoryError: The GPU or the host has too little memory.
            DeviceError: The GPU cannot be used.
            EngineError: The call failed for another reason.
        """
        try:
            status, *values = getattr(self.runtime, name)(*args)
        except RuntimeError as e:  # raised by cuda-python before 13 if there is no driver
            raise DeviceError(
                f"GPU {self.index}: found no NVIDIA driver ({e}); expected one. See esam-rt doctor."
            ) from e
        if status.name in ("cudaSuccess", "CUDA_SUCCESS"):
            return values[0] if len(values) == 1 else tuple(values) or None
        is_driver = status.name.startswith("CUDA_")
        error_string = self.runtime.cuGetErrorString if is_driver else self.runtime.cudaGetErrorString
        words = error_string(status)[1].decode()
        if status.name in ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY"):
            raise OutOfMemoryError(
                f"GPU {self.index}: out of memory ({name}); use smaller batches or a smaller model, or end other "
                "programs on this GPU."
            )
        if status.name in NO_GPU:
            hint = ", as new as cuda-python; for an older one: pip install 'cuda-python<13'"
            raise DeviceError(
                f"GPU {self.index}: cannot be used: {words} ({status.name}); expected an NVIDIA GPU with its driver"
                f"{hint if status.name == 'cudaErrorInsufficientDriver' else ''}. See esam-rt doctor."
            )
        raise EngineError(f"GPU {self.index}: {name} failed: {words} ({status.name}).")

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the current one of the thread. Restores the previous one at the end."""
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
        """Same as ``current``, for calls of the driver. The driver sets up no context in a new thread."""
        with self.current():
            self("cudaSetDevice", self.index)
            yield

    def release(self, name: str, *args: Any) -> None:
        """Call a function that frees something. It may run at any time, since the garbage collector calls finalizers.

        A failure is logged, since a finalizer cannot raise.

        Args:
            name: Name of the function.
            args: Its arguments.
        """
        try:
            with self.current_for_driver(), self._relaxed_capture() if name in UNSAFE_IN_CAPTURE else nullcontext():
                self(name, *args)
        except EsamError as e:
            _log.warning("%s", e)

    @contextmanager
    def _relaxed_capture(self) -> Iterator[None]:
        """Allow calls during a capture by this thread that CUDA cannot know to be harmless."""
        mode = self(
            "cudaThreadExchangeStreamCaptureMode", self.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        )
        try:
            yield
        finally:
            self("cudaThreadExchangeStreamCaptureMode", mode)


def name_and_capability(index: int = 0, runtime: Any = None) -> tuple[str, str]:
    """Read the name and the compute capability of a GPU. It needs no memory of the GPU.

    Args:
        index: Index of the GPU.
        runtime: Stand-in for cuda-python, for tests.

    Returns:
        The name, and the compute capability as ``sm_86``.

    Raises:
        MissingDependencyError: cuda-python is missing.
        DeviceError: There is no driver or no such GPU.
    """
    calls = Calls(runtime, index)
    count = calls("cudaGetDeviceCount")
    if not 0 <= index < count:
        raise DeviceError(f"GPU {index}: found {count} GPUs here, expected an index from 0 to {count - 1}.")
    properties = calls("cudaGetDeviceProperties", index)
    return properties.name.partition(b"\0")[0].decode(), f"sm_{properties.major}{properties.minor}"


def cuda_python() -> SimpleNamespace:
    """Import cuda-python.

    Returns:
        The names of ``cuda.bindings.runtime``, and the names of the driver that this package uses.

    Raises:
        MissingDependencyError: cuda-python cannot be imported.
    """
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
        driver = importlib.import_module("cuda.bindings.driver")
    except ImportError as e:
        raise MissingDependencyError(
            f"cuda-python cannot be imported ({e}); get it with: pip install cuda-python"
        ) from e
    return SimpleNamespace(**vars(runtime), **{name: getattr(driver, name) for name in DRIVER})
