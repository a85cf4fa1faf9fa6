"""A stand-in for ONNX Runtime with a GPU. It runs on the host and is strict about the rules of the GPU providers.

The real library's CPU provider runs the networks. Undefined behavior of ONNX Runtime or CUDA is an AssertionError, and
is listed in `violations`. A test compares the parameters of the methods with the real ones.
"""

from __future__ import annotations

import ctypes
import re
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from esam_rt.engines.cuda import api
from tests.support.fake_cuda import FakeCuda

RealSession = onnxruntime.InferenceSession
CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
STREAM_OPTIONS = {"user_compute_stream", "device_id"}
CUDA_OPTIONS = {"use_tf32", "enable_cuda_graph"} | STREAM_OPTIONS
TENSORRT_OPTIONS = {  # a part of the options of onnxruntime-gpu 1.23 and 1.31
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
} | STREAM_OPTIONS
OVERWRITTEN = 0xDD


@dataclass
class FakeGpu:
    """A machine with a GPU. `install` replaces the library's names.

    providers: providers of the build. missing: providers that do not start. uncapturable: graphs have nodes on the CPU.
    memory_ends: the next run is out of memory. sessions: opened sessions. violations: undefined behavior.
    index: index of the only GPU that may be used.
    """

    providers: tuple[str, ...] = (TENSORRT, CUDA, CPU)
    missing: tuple[str, ...] = ()
    uncapturable: bool = False
    memory_ends: bool = False
    sessions: list[FakeSession] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    engines_built: list[str] = field(default_factory=list)
    arenas: list[int] = field(default_factory=list)
    cuda: FakeCuda = field(default_factory=FakeCuda)
    index: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._users: list[int] = []
        self._captured_by: int | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
        gpu = self

        class Session(FakeSession):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(gpu, *args, **kwargs)

        class Value(FakeValue):
            @classmethod
            def ortvalue_from_shape_and_type(
                cls, shape: list[int], element_type: Any, device_type: str = "cpu", device_id: int = 0
            ) -> FakeValue:
                gpu.require((device_type, device_id) == ("cuda", gpu.index), "a value that is not on the GPU")
                with gpu.used():
                    return FakeValue(gpu, np.full(shape, 77, element_type))

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "OrtValue", Value)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(self.providers))
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
        monkeypatch.setattr(onnxruntime, "create_and_register_allocator_v2", self.register)
        monkeypatch.setattr(api, "cuda_python", lambda: self.cuda)
        return self

    def register(self, provider: str, memory: Any, options: dict[str, str], arena: Any) -> None:
        expected = CUDA, "Cuda", {"device_id": str(self.index)}
        self.require((provider, memory.name, options) == expected, "an arena of no GPU")
        self.arenas.append(arena.max_mem)

    def require(self, is_so: bool, what: str) -> None:
        if not is_so:
            self.violations.append(what)
            raise AssertionError(what)

    @contextmanager
    def used(self, capturing: bool = False) -> Iterator[None]:
        """Use the GPU. Nothing else may use it during a capture."""
        me = threading.get_ident()
        with self._lock:
            self.require(self._captured_by in (None, me), "the GPU is used during a capture")
            if capturing:
                self.require(set(self._users) <= {me}, "a capture begins while others use the GPU")
                self._captured_by = me
            self._users.append(me)
        try:
            if capturing:
                time.sleep(0.01)  # gives other threads the time to interfere
            yield
        finally:
            with self._lock:
                self._users.remove(me)
                if capturing:
                    self._captured_by = None

    @property
    def captures(self) -> int:
        """Number of captured CUDA graphs."""
        return sum(len(s.graphs) for s in self.sessions)

    @property
    def replays(self) -> int:
        """Number of launches of CUDA graphs, without the captures."""
        return sum(s.replays for s in self.sessions)


class FakeValue:
    """An `OrtValue` on the GPU, or on the host if `gpu` is None."""

    def __init__(self, gpu: FakeGpu | None, content: Any) -> None:
        self._gpu, self.content = gpu, content

    def shape(self) -> list[int]:
        return list(self.content.shape)

    def data_ptr(self) -> int:
        return int(self.content.ctypes.data)

    def numpy(self) -> Any:
        if self._gpu is None:
            return self.content
        with self._gpu.used():
            return self.content.copy()

    def update_inplace(self, data: Any) -> None:
        assert self._gpu is not None
        expected = (self.content.dtype, self.content.shape)
        self._gpu.require(type(data) is np.ndarray and data.flags.c_contiguous, "an update of no plain array")
        self._gpu.require((data.dtype, data.shape) == expected, "an update of another shape or dtype")
        with self._gpu.used():
            self.content[...] = data


@dataclass
class Graph:
    """A captured graph: the memory that it reads and writes."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]

    @property
    def addresses(self) -> dict[str, int]:
        return {name: array.ctypes.data for name, array in (*self.inputs.items(), *self.outputs.items())}


class FakeSession:
    """An `InferenceSession` on the given providers."""

    def __init__(
        self,
        gpu: FakeGpu,
        path_or_bytes: Path | bytes,
        sess_options: Any = None,
        providers: Any = None,
        provider_options: Any = None,
        **kwargs: Any,
    ) -> None:
        assert kwargs == {"enable_fallback": False}
        self.gpu, self.provider_options = gpu, dict(providers)
        names = list(self.provider_options)
        gpu.require(names in ([CPU], [CUDA], [TENSORRT, CUDA]), f"providers {names}")
        for name in names if names != [CPU] else ():
            gpu.require(self.provider_options[name].get("device_id", "0") == str(gpu.index), f"{name} on another GPU")
        known = {CPU: set(), CUDA: CUDA_OPTIONS, TENSORRT: TENSORRT_OPTIONS}
        for name, options in self.provider_options.items():
            gpu.require(options.keys() <= known[name], f"unknown options of {name}: {sorted(options)}")
            gpu.require(all(type(value) is str for value in options.values()), "an option that is no string")
            switches = {value for key, value in options.items() if key.startswith("trt_") and key.endswith("_enable")}
            if switches - {"True", "true", "False", "false"}:
                raise RuntimeError("The value for the key should be 'True' or 'False'")
        self.is_graphed = self.provider_options.get(CUDA, {}).get("enable_cuda_graph") == "1"
        if self.is_graphed and gpu.uncapturable:
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user as all compute graph nodes "
                f"have not been partitioned to the {CUDA}"
            )
        self.in_arena, self.is_whole = (
            _entry(sess_options, f"session.{name}") for name in ("use_env_allocators", "disable_cpu_ep_fallback")
        )
        self.arena_bytes = gpu.arenas[-1] if self.in_arena else None
        if self.is_whole and gpu.uncapturable:
            raise RuntimeError(
                "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has "
                "been explicitly disabled by the user."
            )
        with gpu.used():
            self._real = RealSession(path_or_bytes, _on_cpu(sess_options), providers=[CPU])
            self._started = [n for n in names if n not in gpu.missing]
            self.ranges = self._build(path_or_bytes) if TENSORRT in self._started else {}
        self.graphs: dict[int, Graph] = {}
        self.runs = self.replays = 0
        self.arena: list[weakref.ref[FakeValue]] = []
        gpu.sessions.append(self)

    def _build(self, path: Any) -> dict[str, tuple[list[int], list[int]]]:
        """Build an engine for the given shape ranges, unless the cache has it."""
        options = self.provider_options[TENSORRT]
        low, usual, high = (_shapes(options.get(f"trt_profile_{which}_shapes", "")) for which in ("min", "opt", "max"))
        free = {t.name for t in self._real.get_inputs() if any(isinstance(n, str) for n in t.shape)}
        if not free <= low.keys():
            raise RuntimeError("User needs to provide all the dynamic shape inputs with associated profiles")
        self.gpu.require(low.keys() == usual.keys() == high.keys(), "profiles of different inputs")
        if options.get("trt_engine_cache_enable") == "True":
            file = Path(options["trt_engine_cache_path"]) / f"{Path(path).stem}.engine"
            if file.exists():
                self.gpu.require(file.read_text() == str((low, high)), "the profile changed: the engine is built again")
                return {name: (low[name], high[name]) for name in low}
            file.write_text(str((low, high)))
        self.gpu.engines_built.append(Path(path).stem)
        return {name: (low[name], high[name]) for name in low}

    def get_providers(self) -> list[str]:
        return [*self._started, CPU]

    def get_inputs(self) -> Any:
        return self._real.get_inputs()

    def get_outputs(self) -> Any:
        return self._real.get_outputs()

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self)

    def run_with_iobinding(self, iobinding: FakeBinding, run_options: Any = None) -> None:
        self.gpu.require(iobinding.session is self, "a binding of another session")
        if self.is_graphed:
            self._run_graph(iobinding)
            return
        with self.gpu.used():
            results = self._execute({name: array for name, (array, _) in iobinding.inputs.items()})
            iobinding.write(results)

    def _run_graph(self, binding: FakeBinding) -> None:
        """Run like the CUDA provider: the first run of a thread warms up and captures, later ones replay."""
        moving = [name for name, (_, stays) in (*binding.inputs.items(), *binding.outputs.items()) if not stays]
        self.gpu.require(not moving, f"a graph with {moving} that move")
        inputs = {name: array for name, (array, _) in binding.inputs.items()}
        outputs = {name: value.content for name, (value, _) in binding.outputs.items()}
        me = threading.get_ident()
        if me not in self.graphs:
            self.gpu.require(not self.graphs, "a graph is captured by a second thread")
            with self.gpu.used(capturing=True):
                for _ in range(3):
                    results = self._execute(inputs)
                self.graphs[me] = Graph(inputs, outputs)
                binding.write(results)
            return
        graph = self.graphs[me]
        self.gpu.require(Graph(inputs, outputs).addresses == graph.addresses, "addresses moved after the capture")
        with self.gpu.used():
            self.replays += 1
            for value in filter(None, (reference() for reference in self.arena)):
                value.content.fill(OVERWRITTEN)  # the graph has its scratch memory there
            for name, result in self._execute(graph.inputs).items():
                graph.outputs[name][...] = result

    def _execute(self, inputs: dict[str, Any]) -> dict[str, Any]:
        for name, (low, high) in self.ranges.items():
            inside = all(a <= n <= b for a, n, b in zip(low, inputs[name].shape, high, strict=True))
            self.gpu.require(inside, f"{name}: a shape that an engine must be built for")
        if self.gpu.memory_ends:
            self.gpu.memory_ends = False
            raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")
        self.runs += 1
        names = [t.name for t in self.get_outputs()]
        return dict(zip(names, self._real.run(names, dict(inputs)), strict=True))


class FakeBinding:
    """An `IOBinding`: content of each input, target of each output, and if their memory is fixed."""

    def __init__(self, session: FakeSession) -> None:
        self.session, self._gpu = session, session.gpu
        self.inputs: dict[str, tuple[Any, bool]] = {}
        self.outputs: dict[str, tuple[Any, bool]] = {}
        self._results: dict[str, FakeValue] = {}

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        assert type(arr_on_cpu) is np.ndarray
        assert arr_on_cpu.flags.c_contiguous
        with self._gpu.used():  # a copy to the GPU
            self.inputs[name] = arr_on_cpu.copy(), False

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: list[int], buffer_ptr: int
    ) -> None:
        self._gpu.require((device_type, device_id) == ("cuda", self._gpu.index), "an address that is not on the GPU")
        size = int(np.prod(shape)) * np.dtype(element_type).itemsize
        self._gpu.cuda.device_block(buffer_ptr, size)
        memory = (ctypes.c_ubyte * size).from_address(buffer_ptr)
        self.inputs[name] = np.frombuffer(memory, element_type).reshape(shape), True

    def bind_ortvalue_input(self, name: str, ortvalue: FakeValue) -> None:
        self._gpu.require(isinstance(ortvalue, FakeValue), "a value of the host")
        self.inputs[name] = ortvalue.content, True

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0) -> None:
        on_gpu = device_type == "cuda"
        self._gpu.require(device_id == (self._gpu.index if on_gpu else 0), f"{name}: bound to another GPU")
        self.outputs[name] = device_type, False

    def bind_ortvalue_output(self, name: str, ortvalue: FakeValue) -> None:
        self.outputs[name] = ortvalue, True

    def write(self, results: dict[str, Any]) -> None:
        """Write results to the bound targets."""
        for name, (target, stays) in self.outputs.items():
            if stays:
                self._gpu.require(target.content.shape == results[name].shape, f"{name}: bound to another shape")
                target.content[...] = results[name]
                self._results[name] = target
            else:
                self._results[name] = FakeValue(self._gpu if target == "cuda" else None, results[name])
                if target == "cuda":
                    self.session.arena.append(weakref.ref(self._results[name]))

    def get_outputs(self) -> list[FakeValue]:
        return [self._results[name] for name in self.outputs]


def _on_cpu(options: Any) -> Any:
    """Reduce a session's options to those that the real session on the CPU accepts."""
    own = onnxruntime.SessionOptions()
    own.enable_mem_pattern, own.log_severity_level = options.enable_mem_pattern, options.log_severity_level
    return own


def _entry(options: Any, name: str) -> bool:
    """Find out if a session's option is on. The library raises an error for an option that was never set."""
    try:
        return bool(options.get_session_config_entry(name) == "1")
    except RuntimeError:
        return False


def _shapes(option: str) -> dict[str, list[int]]:
    """Parse an option such as `x:1x2,y:3`."""
    assert re.fullmatch(r"(\w+:\d+(x\d+)*)(,\w+:\d+(x\d+)*)*|", option), option
    parts = (part.split(":") for part in option.split(",") if part)
    return {name: [int(n) for n in shape.split("x")] for name, shape in parts}
