"""Build TensorRT engines from ONNX files.

TensorRT builds for the GPU of this machine. TensorRT-RTX also builds for other GPUs, on a machine without a GPU.
``tensorrt`` 10 and 11 and ``tensorrt_rtx`` have one API. The imported library is a parameter. Networks are strongly
typed: the precision lies in the graph's types.
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

from esam_rt.engines.library_errors import MESSAGE_CHARS
from esam_rt.engines.shape_profiles import ShapeRange, shape_ranges
from esam_rt.engines.tensorrt.logger import keeping_logger, parser_messages
from esam_rt.errors import DeviceError, EngineError, MissingDependencyError, ModelError, SettingsError
from esam_rt.storage.onnx_files import check_graph_file

if TYPE_CHECKING:
    from esam_rt.storage.checksummed_file import ChecksummedFile

_log = logging.getLogger("esam_rt")

LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Import names of the libraries by backend. A backend's extra has the backend's name."""

NOT_RTX = ("sm_90", "sm_100", "sm_103")
"""Data center GPUs that TensorRT-RTX does not support: Hopper, and Blackwell without graphics."""

INSTEAD_OF_RTX = "use --backend tensorrt, or --backend onnxruntime --device cuda"

Progress = Callable[[str], None]
"""Called with the name of each phase that the builder starts."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        targets: Compute capabilities to build for, as ``sm_86``. Empty: the GPU of this machine.
        max_batch: Largest number of prompts in one call.
        workspace_mb: Scratch memory that the builder may plan with, in MB. None: all.
        version_compatible: Build engines that later versions of the library can run too, perhaps more slowly.
        strip_weights: Build engines without weights. They get the weights of the ONNX files when they are loaded.

    Raises:
        SettingsError: A value is out of range, or two options exclude each other.
    """

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
                "--version-compatible and --strip-weights: found both, expected one; engines of other versions cannot "
                "get weights."
            )


@dataclass(frozen=True)
class BuiltEngine:
    """A finished build.

    Attributes:
        plan: The serialized engine, a buffer of bytes.
        layers: Number of layers of the parsed network.
        attention: Number of attention operators. Each must become a fused kernel, or the build fails.
        seconds: Duration of the build.
        profile: Shape range of each input with dynamic dimensions, by name.
    """

    plan: Any
    layers: int
    attention: int
    seconds: float
    profile: Mapping[str, ShapeRange]


def load_library(backend: str) -> ModuleType:
    """Import the library of a backend.

    Args:
        backend: Key of ``LIBRARIES``.

    Returns:
        The module.

    Raises:
        MissingDependencyError: The library cannot be imported. The message has the pip command.
    """
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
    """Build the engine of an ONNX file. Ctrl-C ends the build at its next step.

    Args:
        path: ONNX file.
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.
        options: Options of the build.
        progress: Called at the start of each phase.
        timings: File of kernel timings from earlier builds on this GPU. This build adds its own.

    Returns:
        The engine and figures of its build.

    Raises:
        ModelError: The file is no ONNX model, or has an operator that the library does not support.
        SettingsError: The library does not know a target.
        DeviceError: The build needs a GPU and there is none.
        EngineError: The build failed for another reason.
    """
    check_graph_file(path)
    start = time.perf_counter()
    logger = keeping_logger(library)
    logger.forget()
    builder = _new_builder(library, logger)
    config = builder.create_builder_config()
    _configure(config, library, options)
    timing_cache = None if timings is None else _timing_cache(config, timings)
    monitor = _new_monitor(library, progress)
    config.progress_monitor = monitor
    network, _parser = _parse(builder, library, logger, path)  # the parser owns the network's weights
    ranges = _set_shape_ranges(builder, config, network, path, options.max_batch)
    with _interrupting(monitor):
        plan = builder.build_serialized_network(network, config)
    monitor.raise_interrupt()
    if plan is None:
        # Seen with TensorRT-RTX 1.7: a build with weights needs no GPU, a build without weights fails without one.
        hint = " Building without weights needs a GPU." if options.strip_weights else ""
        raise EngineError(
            f"{path}: {library.__name__} {library.__version__} could not build an engine: {logger.words()}{hint}"
        )
    if timings is not None:
        timings.update(functools.partial(_merged_timings, config, timing_cache))
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    attention = sum(kind == getattr(library.LayerType, "ATTENTION_INPUT", None) for kind in kinds)
    return BuiltEngine(plan, len(kinds), attention, time.perf_counter() - start, ranges)


def check_rtx(capabilities: Iterable[str], precision: str) -> None:
    """Check that TensorRT-RTX supports GPUs in a precision. The library itself fails minutes later: it finds no kernel.

    Args:
        capabilities: Compute capabilities, as ``sm_86``.
        precision: ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        SettingsError: A GPU is not supported, or not in this precision.
    """
    for capability in capabilities:
        if capability in NOT_RTX:
            raise SettingsError(f"Backend tensorrt-rtx does not run on {capability}; {INSTEAD_OF_RTX} there.")
        if capability == "sm_75" and precision != "fp16":
            raise SettingsError(
                f"Backend tensorrt-rtx on sm_75 (Turing): found precision {precision}, expected fp16, the only one "
                "that it supports there; build for other GPUs separately."
            )


def fuses_attention(library: ModuleType) -> bool:
    """Find out if the library supports ONNX' operator Attention. TensorRT does since 10.14.

    Args:
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        True if its parser accepts the operator.
    """
    return hasattr(library, "IAttention")


def known_targets(library: ModuleType) -> tuple[str, ...]:
    """List the GPUs that the library can build for without having one.

    Args:
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        Compute capabilities, as ``sm_86``. Empty if it builds for the GPU of this machine only.
    """
    names = vars(getattr(library, "ComputeCapability", object))
    numbers = sorted(int(name[2:]) for name in names if name.startswith("SM") and name[2:].isdigit())
    return tuple(f"sm_{number}" for number in numbers)


def _configure(config: Any, library: ModuleType, options: BuildOptions) -> None:
    """Set the builder's options."""
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
        config.set_flag(library.BuilderFlag.REFIT_IDENTICAL)  # other weights would need slower kernels
    if hasattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # Without this flag TensorRT-RTX allocates more than the memory that it reports, and may not make CUDA graphs.
        config.set_flag(library.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.clear_flag(library.BuilderFlag.TF32)  # all backends compute float32 in float32
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    # Without this feature a call with few prompts takes the scratch memory of the largest batch.
    resize = getattr(library.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10", None)
    if resize is not None:
        config.set_preview_feature(resize, True)


def _timing_cache(config: Any, timings: ChecksummedFile) -> Any:
    """Make the library's timing cache from the file. The builder reads it and adds to it."""
    cache = config.create_timing_cache(timings.read())
    if cache is None or not config.set_timing_cache(cache, False):
        _log.warning("%s: made with another GPU or driver. Measuring again.", timings.path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _merged_timings(config: Any, cache: Any, content: bytes) -> bytes:
    """Merge a timing cache with the file's content: another build may have written meanwhile."""
    newest = config.create_timing_cache(content)
    is_merged = newest is not None and newest.combine(cache, False)
    return bytes((newest if is_merged else cache).serialize())


def _parse(builder: Any, library: ModuleType, logger: Any, path: Path) -> tuple[Any, Any]:
    """Parse an ONNX file into a strongly typed network; return the network and its parser."""
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # TensorRT 11 has no other networks
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = library.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        found = parser_messages(parser) or logger.words()
        raise ModelError(
            f"{path}: {library.__name__} {library.__version__} does not take this graph: {found:.{MESSAGE_CHARS}}"
        )
    return network, parser


def _set_shape_ranges(builder: Any, config: Any, network: Any, path: Path, max_batch: int) -> dict[str, ShapeRange]:
    """Set the ranges of the network's dynamic dimensions; return them by input."""
    inputs = {
        tensor.name: [n if n >= 0 else tensor.get_dimension_name(axis) for axis, n in enumerate(tensor.shape)]
        for tensor in map(network.get_input, range(network.num_inputs))
    }
    ranges = shape_ranges(path, inputs, max_batch)
    if ranges:
        profile = builder.create_optimization_profile()
        for name, shapes in ranges.items():
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    return ranges


def _new_builder(library: ModuleType, logger: Any) -> Any:
    """Make the builder. Some libraries need a GPU for it."""
    try:
        return library.Builder(logger)
    except TypeError as e:  # raised by the bindings for an object that cannot be made
        raise DeviceError(
            f"{library.__name__} {library.__version__} cannot build here: {logger.words()} Expected an NVIDIA GPU with "
            "its driver; tensorrt-rtx builds without a GPU, with --target."
        ) from e


@contextmanager
def _interrupting(monitor: Any) -> Iterator[None]:
    """Make Ctrl-C end the build at its next step. The library would drop an exception from its callbacks."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread only
        return

    def interrupt(*_: object) -> None:
        monitor.interrupt = KeyboardInterrupt()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _new_monitor(library: ModuleType, progress: Progress | None) -> Any:
    """Make the monitor that reports the builder's phases and stops it. Exceptions do not pass through the library."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.interrupt: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._report(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            return self.interrupt is None

        def phase_finish(self, phase: str) -> None:
            pass

        def _report(self, phase: str) -> None:
            if progress is not None and self.interrupt is None:
                try:
                    progress(phase)
                except BaseException as e:
                    self.interrupt = e

        def raise_interrupt(self) -> None:
            if self.interrupt is not None:
                raise self.interrupt

    return Monitor()
