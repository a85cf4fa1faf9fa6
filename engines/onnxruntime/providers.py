"""Sessions of ONNX Runtime: execution providers, their options, memory arenas, and errors."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from esam_rt.engines.library_errors import MESSAGE_CHARS, is_out_of_memory_message, message_of
from esam_rt.engines.onnxruntime.cuda_libraries import missing_cuda, missing_tensorrt
from esam_rt.engines.shape_profiles import ShapeRange
from esam_rt.errors import DeviceError, EngineError, MissingDependencyError, ModelError, OutOfMemoryError
from esam_rt.storage.atomic import utf8_text
from esam_rt.usable_cpus import usable_cpus

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""Execution providers by device."""

EXTRAS = {"cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu"}
"""Extras of this package by device."""

NO_SUCH_GPU = ("invalid device id", "invalid device ordinal")
CUDA_FAILED = ("cuda failure", "cuda error", "cudnn failure", "cublas failure")
PARTIAL_GRAPH = "provide all the dynamic shape inputs"  # TensorRT splits the graph; the parts' shapes are unknown

Options = dict[str, str]

_ENVIRONMENT_LOCK = threading.Lock()  # environment variables belong to the whole process
_ARENA_LOCK = threading.Lock()


@dataclass(frozen=True)
class TensorRTCache:
    """Cache and shape ranges of the TensorRT provider.

    Attributes:
        folder: Where it keeps engines and timings. It trusts these files. None: nowhere.
        ranges: Shape ranges of the inputs with dynamic dimensions, by name.
    """

    folder: Path | None
    ranges: Mapping[str, ShapeRange]

    def options(self) -> Options:
        """Make the provider's options.

        The precision lies in the graph's types: without ``trt_fp16_enable`` and its like networks are strongly typed.

        Returns:
            Values by option.
        """
        options: Options = {}
        for kind in ("engine", "timing") if self.folder else ():
            options |= {f"trt_{kind}_cache_enable": "True", f"trt_{kind}_cache_path": str(self.folder)}
        for k, limit in enumerate(ShapeRange._fields if self.ranges else ()):
            shapes = (f"{name}:{'x'.join(map(str, shape_range[k]))}" for name, shape_range in self.ranges.items())
            options[f"trt_profile_{limit}_shapes"] = ",".join(shapes)
        return options


@dataclass(frozen=True)
class SessionConfig:
    """Where and how a session runs.

    Attributes:
        device: Key of ``PROVIDERS``.
        threads: CPU threads of one call. None: ``usable_cpus()``.
        stream: Address of the caller's CUDA stream. None: the library's own streams.
        cuda_graphs: Capture the first call and replay it. Such a session runs no other call.
        tensorrt: Options for device ``tensorrt``.
        in_arena: Allocate from the last ``gpu_arena``.
        whole: Raise an error if a node would run on the CPU.
        gpu: Index of the GPU.
    """

    device: str
    threads: int | None = None
    stream: int | None = None
    cuda_graphs: bool = False
    tensorrt: TensorRTCache | None = None
    in_arena: bool = False
    whole: bool = False
    gpu: int = 0

    def providers(self) -> list[tuple[str, Options]]:
        """List the providers with their options. The first one that supports a node runs it.

        Returns:
            Names and options, in order of preference.
        """
        if self.device == "cpu":
            return [(PROVIDERS["cpu"], {})]
        stream = {} if self.stream is None else {"user_compute_stream": str(self.stream)}
        if self.gpu:
            stream["device_id"] = str(self.gpu)
        cuda = {"use_tf32": "0", **stream}  # all backends compute float32 in float32
        if self.cuda_graphs:
            cuda["enable_cuda_graph"] = "1"
        providers = [(PROVIDERS["cuda"], cuda)]
        if self.tensorrt is not None:
            providers.insert(0, (PROVIDERS["tensorrt"], {**self.tensorrt.options(), **stream}))
        return providers


def import_onnxruntime(device: str) -> Any:
    """Import ONNX Runtime and load the libraries that a device needs.

    Args:
        device: Key of ``PROVIDERS``.

    Returns:
        The module.

    Raises:
        MissingDependencyError: ONNX Runtime or a library of NVIDIA is missing.
        DeviceError: This ONNX Runtime has no provider for the device.
    """
    try:
        import onnxruntime
    except ImportError as e:
        found = "is not installed" if isinstance(e, ModuleNotFoundError) else f"does not load ({message_of(e):.200})"
        raise MissingDependencyError(
            f"ONNX Runtime {found}; get it with: pip install 'esam-rt[{EXTRAS[device]}]'"
        ) from e
    provider, available = PROVIDERS[device], onnxruntime.get_available_providers()
    if provider not in available:
        raise DeviceError(
            f"Device {device}: this ONNX Runtime has {', '.join(available)} but not {provider}; get it with: "
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'esam-rt[{EXTRAS[device]}]'"
        )
    if device != "cpu" and (missing := missing_cuda(onnxruntime)):
        raise MissingDependencyError(f"Device {device}: {missing[0]}; get it with: {missing[1]}")
    if device == "tensorrt" and (missing := missing_tensorrt(onnxruntime)):
        raise MissingDependencyError(f"Device tensorrt: {missing[0]}; get it with: {missing[1]}")
    return onnxruntime


def open_session(name: str, model: Path | bytes, config: SessionConfig) -> Any:
    """Open a session. It never falls back to another provider.

    Args:
        name: Name of the network, for messages.
        model: ONNX file, or its bytes.
        config: Where and how the session runs.

    Returns:
        The library's ``InferenceSession``.

    Raises:
        ModelError: The model cannot be loaded.
        OutOfMemoryError: The device has too little memory.
        DeviceError: A provider does not start, or there is no such GPU.
        EngineError: A provider does not support the graph as the configuration asks.
    """
    import onnxruntime

    providers = config.providers()
    if isinstance(model, Path) and (shown := utf8_text(str(model))) != str(model):
        raise ModelError(
            f"{shown}: ONNX Runtime reads only paths that are UTF-8. Move the file, or set ESAM_RT_CACHE to another "
            "folder."
        )
    try:
        with _without_tf32() if config.device == "tensorrt" else contextlib.nullcontext():
            session = onnxruntime.InferenceSession(
                model, _session_options(config), providers=providers, enable_fallback=False
            )
    except runtime_errors() as e:
        _raise_translated(name, config, e)
    for provider, _ in providers:
        if provider not in session.get_providers():
            raise _not_started(config.device, provider)
    _sessions.add(session)
    return session


_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


def _never_free_sessions() -> None:
    """In a forked child: freeing a session waits for its threads, and the child has none. The child could not exit."""
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_never_free_sessions)


def _session_options(config: SessionConfig) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; the log would repeat them on stderr
    # Spinning threads hold cores that superpixels and kernels need. With another process on the same two cores, the
    # decoder did 6 to 50 % more prompts/s at batches of 8 and 16 without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A memory pattern is one block for a whole call. From the second call on it is allocated beside the arena's memory:
    # over several photos ViT-B takes 1,365 MB with patterns and 930 MB without, in the same time.
    options.enable_mem_pattern = False
    if config.device == "cpu":
        share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights outside the arena: ViT-B takes 90 MB less.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if config.in_arena:
        options.add_session_config_entry("session.use_env_allocators", "1")
    if config.whole:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # The library's own default counts the cores of the host, also inside a container with a quota.
    options.intra_op_num_threads = config.threads or usable_cpus()
    return options


def _raise_translated(name: str, config: SessionConfig, e: Exception) -> NoReturn:
    """Raise an error of ours for a session that could not be opened."""
    import onnxruntime

    words, brief = message_of(e), message_of(e)[:MESSAGE_CHARS]
    if _lacks_gpu(e):
        raise _no_such_gpu(config.gpu, e) from e
    if is_out_of_memory(e) and config.in_arena:
        raise OutOfMemoryError(f"{name}: the memory budget does not hold its weights; allow more.") from e
    if is_out_of_memory(e):
        raise OutOfMemoryError(f"{name}: not enough memory on device {config.device} to load it: {brief}") from e
    if "TensorRT libraries" in words or any(phrase in words.lower() for phrase in CUDA_FAILED):
        raise _not_started(config.device, PROVIDERS[config.device]) from e
    if PARTIAL_GRAPH in words:
        raise EngineError(
            f"{name}: TensorRT supports only parts of this graph; use device cuda, or backend tensorrt: {brief}"
        ) from e
    if config.cuda_graphs and "graph capture" in words:
        raise EngineError(f"{name}: ONNX Runtime cannot capture it: {brief}") from e
    if config.whole and "fallback to CPU EP" in words:
        raise EngineError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} would run a part of it on the CPU; update it, or use "
            "another precision or form of attention."
        ) from e
    raise ModelError(f"{name}: expected a whole ONNX model, found one that cannot be loaded: {brief}") from e


def runtime_errors() -> tuple[type[Exception], ...]:
    """List the exceptions that ONNX Runtime raises. They share no base class.

    ``UnicodeDecodeError`` stands for any of them whose message is no UTF-8; see ``message_of``.

    Returns:
        Exception types, for ``except``.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (t for t in vars(state).values() if isinstance(t, type) and issubclass(t, Exception))
    return (*own, RuntimeError, MemoryError, UnicodeDecodeError)


def is_out_of_memory(error: Exception) -> bool:
    """Find out if an error of ONNX Runtime means that a device has too little memory.

    Args:
        error: Exception that the library raised.

    Returns:
        True if its type or its message says it.
    """
    return isinstance(error, MemoryError) or is_out_of_memory_message(message_of(error))


@functools.cache
def share_memory() -> None:
    """Let all sessions on the CPU allocate from one arena: the decoder reuses the encoder's memory.

    ViT-B with its decoder at 4 prompts a call takes 929 MB at the peak, and 1,250 MB with one arena each.
    """
    import onnxruntime

    arena, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, default)
    # If another library of this process has registered an arena, that one is shared.
    with contextlib.suppress(*runtime_errors()):
        onnxruntime.create_and_register_allocator(memory, None)


@contextlib.contextmanager
def gpu_arena(limit_mb: int, gpu: int = 0) -> Iterator[None]:
    """Give the sessions that are opened inside, with ``in_arena``, one memory arena on the GPU.

    The decoder reuses the encoder's memory. A call that needs more than the limit is out of memory. These sessions must
    run one at a time: each has its own stream, and an arena does not order the work of two streams.

    Args:
        limit_mb: Size of the arena, in MB.
        gpu: Index of the GPU.

    Yields:
        None, while new sessions get this arena.

    Raises:
        DeviceError: There is no such GPU.
    """
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cuda", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, gpu, onnxruntime.OrtMemType.DEFAULT
    )

    def register(limit_bytes: int) -> None:
        limit = onnxruntime.OrtArenaCfg({"max_mem": limit_bytes})
        onnxruntime.create_and_register_allocator_v2(PROVIDERS["cuda"], memory, {"device_id": str(gpu)}, limit)

    with _ARENA_LOCK:  # a session gets the arena that was registered last
        try:
            register(limit_mb << 20)
        except runtime_errors() as e:
            if _lacks_gpu(e):
                raise _no_such_gpu(gpu, e) from e
            raise
        try:
            yield
        finally:
            register(1 << 20)  # else the environment would keep the large arena after its last session


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Make TensorRT build engines whose float32 is not TF32, unless the user set NVIDIA's variable.

    The provider has no option for it.
    """
    name = "NVIDIA_TF32_OVERRIDE"
    with _ENVIRONMENT_LOCK:
        is_given = name in os.environ
        os.environ.setdefault(name, "0")
        try:
            yield
        finally:
            if not is_given:
                os.environ.pop(name, None)


def _lacks_gpu(error: Exception) -> bool:
    return any(phrase in message_of(error).lower() for phrase in NO_SUCH_GPU)


def _no_such_gpu(gpu: int, error: Exception) -> DeviceError:
    return DeviceError(
        f"GPU {gpu}: ONNX Runtime does not find it here; choose another one with --gpu: "
        f"{message_of(error)[:MESSAGE_CHARS]}"
    )


def _not_started(device: str, provider: str) -> DeviceError:
    needs = "CUDA, cuDNN and TensorRT" if device == "tensorrt" else "CUDA and cuDNN"
    return DeviceError(
        f"Device {device}: ONNX Runtime could not start {provider}; expected an NVIDIA GPU with driver, {needs} of the "
        "versions that this onnxruntime-gpu names. Use device cpu, or see esam-rt doctor."
    )
