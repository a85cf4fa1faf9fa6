"""ONNX → TensorRT engine, for the GPU at hand or, with TensorRT-RTX, for others, on a machine that has none.

One module for `tensorrt` 10 and 11 and for `tensorrt_rtx`, which have one API; the library is a parameter. Precision is
in the graph's types: networks are strongly typed.
"""

from __future__ import annotations

import functools
import importlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from esam_rt.engines.shape_profiles import Profile, profile_shapes
from esam_rt.engines.tensorrt.logger import keeping_logger
from esam_rt.errors import DeviceError, EngineError, MissingDependencyError, ModelError, SettingsError
from esam_rt.storage.onnx_files import check_graph_file

if TYPE_CHECKING:
    from esam_rt.storage.checksummed_file import ChecksummedFile

_log = logging.getLogger("esam_rt")

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Import names of the libraries, by backend, which is also the name of its extra."""

NOT_RTX = ("sm_90", "sm_100", "sm_103")
"""GPUs of data centres (Hopper, and Blackwell without graphics), which TensorRT-RTX does not run on."""

INSTEAD_OF_RTX = "use --backend tensorrt, or --backend onnxruntime --device cuda"

Progress = Callable[[str], None]
"""Called with what the builder begins to do."""

_WORDS = 400  # characters of a library's complaints in an error


@dataclass(frozen=True)
class BuildOptions:
    """targets: compute capabilities as `sm_86`; none = the GPU at hand. max_batch: prompts of one call at most.
    workspace_mb: scratch memory that the builder may plan with, default all. version_compatible: whether later versions
    of the library may run the engines too, perhaps slower. strip_weights: whether the plans have no weights, which are
    put in from the ONNX files when they are loaded. SettingsError for what is out of range or does not go together."""

    targets: tuple[str, ...] = ()
    max_batch: int = 64
    workspace_mb: int | None = None
    version_compatible: bool = False
    strip_weights: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(sorted(set(self.targets), key=lambda t: (len(t), t))))
        if self.max_batch < 1:
            raise SettingsError(f"--max-batch {self.max_batch}: expected at least 1.")
        if self.workspace_mb is not None and self.workspace_mb < 1:
            raise SettingsError(f"--workspace {self.workspace_mb}: expected at least 1 MB.")
        if self.version_compatible and self.strip_weights:
            raise SettingsError(
                "--version-compatible and --strip-weights: found both, expected one; what runs the engines of other "
                "versions cannot put weights in."
            )


@dataclass(frozen=True)
class BuiltEngine:
    """plan: the serialised engine, a buffer of bytes. layers: of the network as it was parsed. attention: operators
    that must become fused kernels, or the build fails. profile: least, usual and greatest shape of the inputs with free
    extents."""

    plan: Any
    layers: int
    attention: int
    seconds: float
    profile: Mapping[str, Profile]


def load_library(backend: str) -> ModuleType:
    """The library of a backend; MissingDependencyError with the pip command if it cannot be imported."""
    name = LIBRARIES[backend]
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise MissingDependencyError(
            f"{name} cannot be imported ({e}); get it with: pip install 'esam-rt[{backend}]'"
        ) from e


def build_engine(
    path: Path,
    library: ModuleType,
    options: BuildOptions,
    progress: Progress | None = None,
    timings: ChecksummedFile | None = None,
) -> BuiltEngine:
    """The engine of an ONNX file. timings: of kernels, from earlier builds on this GPU, to which this one's are added.

    ModelError for a file that is no ONNX model or has what the library does not know, SettingsError for targets that it
    does not have, DeviceError where it needs a GPU and finds none, EngineError if the build fails for another reason.
    """
    check_graph_file(path)
    start = time.perf_counter()
    logger = keeping_logger(library)
    logger.forget()
    builder = _builder(library, logger)
    config = builder.create_builder_config()
    _configure(config, library, options)
    timing_cache = None if timings is None else _timing_cache(config, timings)
    monitor = _monitor(library, progress)
    config.progress_monitor = monitor
    network = builder.create_network(_typed(library))
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        found = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)) or logger.words()
        raise ModelError(
            f"{path}: {library.__name__} {library.__version__} does not take this graph: {found:.{_WORDS}}"
        )
    shapes = _profile(builder, config, network, path, options.max_batch)
    with _interrupting(monitor):
        plan = builder.build_serialized_network(network, config)
    monitor.raise_interrupt()
    if plan is None:
        # Seen of TensorRT-RTX 1.7: with weights it needs no GPU, without it fails where there is none.
        hint = " Without weights, engines are built where there is a GPU." if options.strip_weights else ""
        raise EngineError(
            f"{path}: {library.__name__} {library.__version__} could not build an engine: {logger.words()}{hint}"
        )
    if timings is not None:
        timings.update(functools.partial(_merged, config, timing_cache))
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    attention = sum(kind == getattr(library.LayerType, "ATTENTION_INPUT", None) for kind in kinds)
    return BuiltEngine(plan, len(kinds), attention, time.perf_counter() - start, shapes)


def check_rtx(capabilities: Iterable[str], precision: str) -> None:
    """SettingsError for GPUs that TensorRT-RTX does not run on, or not in this precision: its own words for the second
    are that it finds no kernel, minutes later."""
    for capability in capabilities:
        if capability in NOT_RTX:
            raise SettingsError(f"Backend tensorrt-rtx does not run on {capability}; {INSTEAD_OF_RTX} there.")
        if capability == "sm_75" and precision != "fp16":
            raise SettingsError(
                f"Backend tensorrt-rtx on sm_75 (Turing): found precision {precision}, expected fp16, the only one "
                "that it has there; build for other GPUs apart."
            )


def fuses_attention(library: ModuleType) -> bool:
    """Whether the library's parser takes ONNX' operator Attention: TensorRT since 10.14."""
    return hasattr(library, "IAttention")


def known_targets(library: ModuleType) -> tuple[str, ...]:
    """The compute capabilities, as `sm_86`, that the library builds for without a GPU of that kind."""
    names = vars(getattr(library, "ComputeCapability", object))
    numbers = sorted(int(name[2:]) for name in names if name.startswith("SM") and name[2:].isdigit())
    return tuple(f"sm_{number}" for number in numbers)


def _configure(config: Any, library: ModuleType, options: BuildOptions) -> None:
    """Options → the builder's own."""
    known = known_targets(library)
    for i, target in enumerate(options.targets):
        if target not in known:
            able = f"knows {', '.join(known)}" if known else "builds for the GPU at hand only, tensorrt-rtx for others"
            raise SettingsError(f"--target {target}: {library.__name__} {library.__version__} {able}.")
        if i == 0:
            config.num_compute_capabilities = len(options.targets)
        config.set_compute_capability(getattr(library.ComputeCapability, target.replace("_", "").upper()), i)
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.version_compatible:
        config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)
    if options.strip_weights:
        config.set_flag(library.BuilderFlag.STRIP_PLAN)
        config.set_flag(library.BuilderFlag.REFIT_IDENTICAL)  # weights that differ would need slower kernels
    if hasattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT-RTX allocates by itself else, beyond what it says that a call takes, and may not make CUDA graphs.
        config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.clear_flag(library.BuilderFlag.TF32)  # fp32 is fp32: who wants less asks for fp16 or bf16
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    # Else a call of few prompts takes the scratch memory of the most.
    resize = getattr(library.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
    if resize is not None:
        config.set_preview_feature(resize, True)


def _timing_cache(config: Any, timings: ChecksummedFile) -> Any:
    """The library's cache of earlier timings, which the builder uses and adds to."""
    cache = config.create_timing_cache(timings.read())
    if cache is None or not config.set_timing_cache(cache, False):
        _log.warning("%s: of another GPU or driver; measuring anew.", timings.path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _merged(config: Any, cache: Any, content: bytes) -> bytes:
    """A cache and the content of its file, to which another build may have added meanwhile."""
    newest = config.create_timing_cache(content)
    is_merged = newest is not None and newest.combine(cache, False)
    return bytes((newest if is_merged else cache).serialize())


def _typed(library: ModuleType) -> int:
    """Flags of a strongly typed network, which TensorRT 11 has no others of."""
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _profile(builder: Any, config: Any, network: Any, path: Path, max_batch: int) -> dict[str, Profile]:
    """Give the network the ranges of its free extents; returns them by input."""
    inputs = {
        tensor.name: [n if n >= 0 else tensor.get_dimension_name(axis) for axis, n in enumerate(tensor.shape)]
        for tensor in map(network.get_input, range(network.num_inputs))
    }
    shapes = profile_shapes(path, inputs, max_batch)
    if shapes:
        profile = builder.create_optimization_profile()
        for name, of_input in shapes.items():
            profile.set_shape(name, *of_input)
        config.add_optimization_profile(profile)
    return shapes


def _builder(library: ModuleType, logger: Any) -> Any:
    """The builder, which some libraries cannot make without a GPU."""
    try:
        return library.Builder(logger)
    except TypeError as e:  # what its bindings make of an object that cannot be made
        raise DeviceError(
            f"{library.__name__} {library.__version__} cannot build here: {logger.words()} Expected an NVIDIA GPU with "
            "its driver; tensorrt-rtx builds without, with --target."
        ) from e


@contextmanager
def _interrupting(monitor: Any) -> Iterator[None]:
    """Ctrl-C ends the build at its next step: raised in the library's callbacks it would be dropped."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread, wherever that is
        return

    def interrupt(*_: object) -> None:
        monitor.interrupt = KeyboardInterrupt()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(library: ModuleType, progress: Progress | None) -> Any:
    """What tells of the builder's phases, and lets Ctrl-C end it: exceptions do not pass through the library."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.interrupt: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._tell(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            return self.interrupt is None

        def phase_finish(self, phase: str) -> None:
            pass

        def _tell(self, phase: str) -> None:
            if progress is not None and self.interrupt is None:
                try:
                    progress(phase)
                except BaseException as e:
                    self.interrupt = e

        def raise_interrupt(self) -> None:
            if self.interrupt is not None:
                raise self.interrupt

    return Monitor()
