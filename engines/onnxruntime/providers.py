"""ONNX Runtime's execution providers: options, libraries, and sessions that run where they were asked to."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_rt.engines.onnxruntime.cuda_libraries import missing_cuda, missing_tensorrt
from esam_rt.engines.shape_profiles import Profile
from esam_rt.errors import DeviceError, EngineError, MissingDependencyError, ModelError, OutOfMemoryError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
EXTRAS = {"cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu"}
OUT_OF_MEMORY = (
    *("failed to allocate", "out of memory", "alloc_failed", "bad_alloc", "bad allocation"),
    "is smaller than requested bytes",  # of an arena with a limit
)
CUDA_FAILED = ("cuda failure", "cuda error", "cudnn failure", "cublas failure")
NOT_ALL_TAKEN = "provide all the dynamic shape inputs"  # TensorRT takes parts of the graph, whose shapes nobody knows

Options = dict[str, str]


@dataclass(frozen=True)
class TensorRTCache:
    """Where the TensorRT provider keeps engines and timings, which it trusts, and the shapes that it builds for."""

    folder: Path | None
    profiles: Mapping[str, Profile]

    def options(self) -> Options:
        """The provider's options. Precision is in the graph's types: without `trt_fp16_enable` and its like networks
        are strongly typed."""

        def shapes(which: int) -> str:
            return ",".join(f"{name}:{'x'.join(map(str, of[which]))}" for name, of in self.profiles.items())

        options: Options = {}
        for kind in ("engine", "timing") if self.folder else ():
            options |= {f"trt_{kind}_cache_enable": "True", f"trt_{kind}_cache_path": str(self.folder)}
        if self.profiles:
            names = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
            options |= {name: shapes(which) for which, name in enumerate(names)}
        return options


@dataclass(frozen=True)
class Placed:
    """Where a session runs. threads: of one call on the CPU. stream: the address of a caller's on the GPU. cuda_graphs:
    whether the session does nothing but capture one call and replay it. tensorrt: for device `tensorrt`. in_arena:
    whether its memory comes from the last `gpu_arena`. whole: whether no node may run on the CPU. gpu: index of the
    GPU."""

    device: str
    threads: int | None = None
    stream: int | None = None
    cuda_graphs: bool = False
    tensorrt: TensorRTCache | None = None
    in_arena: bool = False
    whole: bool = False
    gpu: int = 0

    def providers(self) -> list[tuple[str, Options]]:
        """Providers with their options, the first one first; CUDA takes what TensorRT does not."""
        if self.device == "cpu":
            return [(PROVIDERS["cpu"], {})]
        stream = {} if self.stream is None else {"user_compute_stream": str(self.stream)}
        if self.gpu:
            stream["device_id"] = str(self.gpu)
        cuda = {"use_tf32": "0", **stream}  # fp32 is fp32, as everywhere
        if self.cuda_graphs:
            cuda["enable_cuda_graph"] = "1"
        found = [(PROVIDERS["cuda"], cuda)]
        if self.tensorrt is not None:
            found.insert(0, (PROVIDERS["tensorrt"], {**self.tensorrt.options(), **stream}))
        return found


class Gate:
    """Lets many threads use GPUs at once, or one capture a CUDA graph alone: ONNX Runtime captures in CUDA's global
    mode, in which whatever another thread allocates breaks the graph."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._is_taken = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Beside others; waits while one is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Without any other; waits for those that began, and keeps out those that come."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_taken)
            self._is_taken = True
            self._changed.wait_for(lambda: not self._users)
        try:
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


GATE = Gate()
_BUILDING = threading.Lock()  # the environment is one for all threads
_REGISTERED = threading.Lock()


def import_onnxruntime(device: str) -> Any:
    """The library, with the provider of a device and what it needs loaded. MissingDependencyError where a library is
    missing, DeviceError where this one has no such provider."""
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
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'esam-rt[{EXTRAS[device]}]'"
        )
    if device != "cpu" and (missing := missing_cuda(onnxruntime)):
        raise MissingDependencyError(f"Device {device}: {missing[0]}; get it with: {missing[1]}")
    if device == "tensorrt" and (missing := missing_tensorrt(onnxruntime)):
        raise MissingDependencyError(f"Device tensorrt: {missing[0]}; get it with: {missing[1]}")
    return onnxruntime


def open_session(name: str, model: Path | bytes, placed: Placed) -> Any:
    """A session for an ONNX file, or its bytes, with no quiet fall back to another provider. name: for messages.

    ModelError, OutOfMemoryError, DeviceError where the provider does not start.
    """
    import onnxruntime

    options, device = onnxruntime.SessionOptions(), placed.device
    options.log_severity_level = 4  # what goes wrong is raised; the log on stderr would say it twice
    # Spinning threads hold cores that superpixels and kernels need: with another process on the same two cores, the
    # decoder did 6 to 50 % more prompts/s at batches of 8 and 16 without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A pattern is one piece of memory for a whole call, which from the second call on is taken beside what the
    # arena has: over several photos ViT-B takes 930 MB without and 1,365 with, in the same time.
    options.enable_mem_pattern = False
    if device == "cpu":
        share_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # Weights outside the arena: ViT-B takes 90 MB less.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    if placed.in_arena:
        options.add_session_config_entry("session.use_env_allocators", "1")
    if placed.whole:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if placed.threads is not None:
        options.intra_op_num_threads = placed.threads
    providers = placed.providers()
    try:
        with _without_tf32() if device == "tensorrt" else contextlib.nullcontext():
            session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=False)
    except runtime_errors() as e:
        if is_out_of_memory(e) and placed.in_arena:
            raise OutOfMemoryError(f"{name}: the memory that was allowed does not hold its weights; allow more.") from e
        if is_out_of_memory(e):
            raise OutOfMemoryError(f"{name}: not enough memory on device {device} to load it: {e}") from e
        if "TensorRT libraries" in str(e) or any(sign in str(e).lower() for sign in CUDA_FAILED):
            raise _not_started(device, PROVIDERS[device]) from e
        if NOT_ALL_TAKEN in str(e):
            raise EngineError(
                f"{name}: TensorRT takes only parts of this graph; use device cuda, or backend tensorrt: {e}"
            ) from e
        if placed.cuda_graphs and "graph capture" in str(e):
            raise EngineError(f"{name}: ONNX Runtime cannot capture it: {e}") from e
        if placed.whole and "fallback to CPU EP" in str(e):
            raise EngineError(
                f"{name}: ONNX Runtime {onnxruntime.__version__} would run a part of it on the CPU; update it, or use "
                "another precision or form of attention."
            ) from e
        raise ModelError(f"{name}: expected a whole ONNX model, found one that cannot be loaded: {e}") from e
    for provider, _ in providers:
        if provider not in session.get_providers():
            raise _not_started(device, provider)
    return session


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own exceptions share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (t for t in vars(state).values() if isinstance(t, type) and issubclass(t, Exception))
    return (*own, RuntimeError, MemoryError)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had not enough memory, by the error's words."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY)


@functools.cache
def share_memory() -> None:
    """Let all sessions on the CPU allocate from one arena: what the encoder needed, the decoder uses again. ViT-B with
    its decoder at 4 prompts a call: 929 MB at the peak against 1,250 with an arena each."""
    import onnxruntime

    arena, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", arena, 0, default)
    # Already registered by somebody else in this process: then that one is shared.
    with contextlib.suppress(*runtime_errors()):
        onnxruntime.create_and_register_allocator(memory, None)


@contextlib.contextmanager
def gpu_arena(limit_mb: int, gpu: int = 0) -> Iterator[None]:
    """One arena on the GPU for all sessions that are opened inside with `in_arena`, of so many MB at most: what the
    encoder needed, the decoder uses again, and a call that needs more is out of memory. These sessions may run one at a
    time only: streams of two do not know of each other's memory."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cuda", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, gpu, onnxruntime.OrtMemType.DEFAULT
    )

    def register(limit_bytes: int) -> None:
        limit = onnxruntime.OrtArenaCfg({"max_mem": limit_bytes})
        onnxruntime.create_and_register_allocator_v2(PROVIDERS["cuda"], memory, {"device_id": str(gpu)}, limit)

    with _REGISTERED:  # sessions take the one that was registered last
        register(limit_mb << 20)
        try:
            yield
        finally:
            register(1 << 20)  # else the environment would hold the other beyond its last session


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Have TensorRT build engines whose float32 is float32: the provider has no option for it, NVIDIA's libraries have
    a variable. What the user has set stays."""
    name = "NVIDIA_TF32_OVERRIDE"
    with _BUILDING:
        is_given = name in os.environ
        os.environ.setdefault(name, "0")
        try:
            yield
        finally:
            if not is_given:
                os.environ.pop(name, None)


def _not_started(device: str, provider: str) -> DeviceError:
    needs = "CUDA, cuDNN and TensorRT" if device == "tensorrt" else "CUDA and cuDNN"
    return DeviceError(
        f"Device {device}: ONNX Runtime could not start {provider}; expected an NVIDIA GPU with driver, {needs} of the "
        "versions that this onnxruntime-gpu names. Use device cpu, or see esam-rt doctor."
    )
