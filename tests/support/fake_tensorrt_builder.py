"""A stand-in for TensorRT's builder. `FakeTensorRT` runs its engines. It times each node that no cache knows."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

import onnx

from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import FakeTensorRT, ILogger, make_plan, without_weights

Flags = IntEnum("Flags", ["STRONGLY_TYPED"], start=0)


class IProgressMonitor:
    """Base of monitors."""


class FakeTensorRTBuilder(FakeTensorRT):
    """The part of `tensorrt` that builds engines. built: names of the graphs; timed: names of the nodes, in order."""

    IProgressMonitor = IProgressMonitor
    NetworkDefinitionCreationFlag = Flags
    BuilderFlag = Enum("BuilderFlag", ["TF32", "VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT_IDENTICAL"])
    LayerType = Enum("LayerType", ["ATTENTION_INPUT", "OTHER"])
    MemoryPoolType = Enum("MemoryPoolType", ["WORKSPACE"])
    PreviewFeature = Enum("PreviewFeature", ["RUNTIME_ACTIVATION_RESIZE_10_10"])
    ProfilingVerbosity = Enum("ProfilingVerbosity", ["DETAILED"])

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__(cuda)
        self.built: list[str] = []
        self.timed: list[str] = []

    def Builder(self, logger: ILogger) -> FakeBuilder:  # noqa: N802
        return FakeBuilder(self, logger)

    def OnnxParser(self, network: FakeNetwork, logger: ILogger) -> FakeParser:  # noqa: N802
        return FakeParser(network)


class FakeTimingCache:
    """Times of nodes with one version of the library and one driver."""

    def __init__(self, header: list[str]) -> None:
        self.header, self.times = header, dict[str, float]()

    def serialize(self) -> bytes:
        return json.dumps([self.header, self.times]).encode()

    def combine(self, other: FakeTimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if other.header != self.header:
            return False
        self.times = {**other.times, **self.times}
        return True


class FakeConfig:
    """A builder's options."""

    profiling_verbosity = progress_monitor = None

    def __init__(self, library: FakeTensorRTBuilder, logger: Any) -> None:
        self.library, self.logger = library, logger
        self.profiles: list[FakeProfile] = []
        self.preview: set[Any] = set()
        self.flags: set[str] = set()
        self.timing_cache = FakeTimingCache(self._header())

    def _header(self) -> list[str]:
        return [self.library.__version__, self.library.driver]

    def clear_flag(self, flag: Any) -> None:
        assert flag is self.library.BuilderFlag.TF32

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        assert size >= 1 << 20

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self.preview |= {feature} if enable else set()

    def create_timing_cache(self, serialized: bytes) -> FakeTimingCache:
        """Make a cache. It is empty, with a warning, if the content cannot be read."""
        cache = FakeTimingCache(self._header())
        if serialized:
            try:
                cache.header, cache.times = json.loads(serialized)
            except ValueError:
                self.logger.log(ILogger.Severity.WARNING, "Failed to deserialize timing cache.")
        return cache

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        if cache.header != self._header() and not ignore_mismatch:
            return False
        self.timing_cache = cache
        return True

    def add_optimization_profile(self, profile: FakeProfile) -> None:
        self.profiles.append(profile)


class FakeProfile:
    """Ranges of inputs."""

    def __init__(self) -> None:
        self.ranges: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def set_shape(self, name: str, low: tuple[int, ...], usual: tuple[int, ...], high: tuple[int, ...]) -> None:
        assert all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True))
        self.ranges[name] = low, high


class FakeInput:
    """An input of a network."""

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name, self.dims = value.name, value.type.tensor_type.shape.dim
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in self.dims)

    def get_dimension_name(self, index: int) -> str:
        return self.dims[index].dim_param


class FakeNetwork:
    """A parsed graph."""

    def __init__(self, flags: int) -> None:
        assert flags == 1 << Flags.STRONGLY_TYPED
        self.model, self.name = onnx.ModelProto(), ""
        self.parser: Callable[[], object] = lambda: None

    @property
    def num_inputs(self) -> int:
        return len(self.model.graph.input)

    @property
    def num_layers(self) -> int:
        return len(self.model.graph.node)

    def get_input(self, index: int) -> FakeInput:
        return FakeInput(self.model.graph.input[index])

    def get_layer(self, index: int) -> Any:
        is_attention = self.model.graph.node[index].op_type == "Attention"
        kinds = FakeTensorRTBuilder.LayerType

        class Layer:
            type = kinds.ATTENTION_INPUT if is_attention else kinds.OTHER

        return Layer


class FakeParser:
    """Reads ONNX files."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        self.network.model, self.network.name = onnx.load(path), path.rpartition("/")[2]
        self.network.parser = weakref.ref(self)
        return True


class FakeBuilder:
    """Builds plans for a `FakeRuntime`."""

    def __init__(self, library: FakeTensorRTBuilder, logger: Any) -> None:
        self.library, self.logger = library, logger

    def create_builder_config(self) -> FakeConfig:
        return FakeConfig(self.library, self.logger)

    def create_network(self, flags: int) -> FakeNetwork:
        return FakeNetwork(flags)

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile()

    def build_serialized_network(self, network: FakeNetwork, config: FakeConfig) -> bytes | None:
        assert config.preview, "scratch memory must follow the shapes"
        assert network.parser() is not None, "the parser owns the network's weights"
        known = config.timing_cache.times
        for i, node in enumerate(network.model.graph.node):
            if (key := f"{network.name} {i} {node.op_type}") not in known:
                self.library.timed.append(key)
                known[key] = 1.0
        self.library.built.append(network.name)
        ranges = {name: of for profile in config.profiles for name, of in profile.ranges.items()}
        if {"STRIP_PLAN", "VERSION_COMPATIBLE"} <= config.flags:
            self.logger.log(ILogger.Severity.ERROR, "Error Code 4: a lean runtime cannot refit")
            return None
        assert ("STRIP_PLAN" in config.flags) == ("REFIT_IDENTICAL" in config.flags)
        model = network.model
        if "STRIP_PLAN" in config.flags:
            model = without_weights(model)
        kinds = {"stripped": "STRIP_PLAN" in config.flags, "brings_code": "VERSION_COMPATIBLE" in config.flags}
        return make_plan(model.SerializeToString(), ranges, version=self.library.__version__, **kinds)
