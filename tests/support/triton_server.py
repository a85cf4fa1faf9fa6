"""A stand-in for Triton: it runs a model repository by its configs, and gives models ``triton_python_backend_utils``.

Configs are read by Triton's own protocol buffers. Types, dimensions and names of all tensors are checked against them.
A tensor's memory is overwritten when the tensor is gone, as the server reuses it.
"""

from __future__ import annotations

import importlib.util
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import np_to_triton_dtype

UTILS = "triton_python_backend_utils"


class TritonError(Exception):
    def message(self) -> str:
        return str(self)


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        assert array.ndim > 0, f"{name}: Triton has no tensor without an axis"
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self.output_tensors, self._error = list(output_tensors), error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


class PreferredMemory:
    def __init__(self, kind: int, device: int) -> None:
        assert kind == 0, "this server has no GPU"


class Request:
    """A request as a Python model gets it."""

    def __init__(self, inputs: Sequence[Tensor], names: Sequence[str]) -> None:
        self.inputs, self.names = inputs, names

    def requested_output_names(self) -> list[str]:
        return list(self.names)


def by_name(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


class StandInServer:
    """Serves a repository. ``broken`` names models that answer with an error."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.configs = {p.parent.name: read_config(p) for p in repository.glob("*/config.pbtxt")}
        self.broken: set[str] = set()
        self.requests: list[str] = []
        self._models: dict[str, Any] = {}
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def version(self, name: str) -> Path:
        """The folder that the server reads: the highest number."""
        assert self.configs[name].version_policy.latest.num_versions == 1
        return max((p for p in (self.repository / name).iterdir() if p.name.isdigit()), key=lambda p: int(p.name))

    def utils(self) -> ModuleType:
        module = ModuleType(UTILS)
        server = self

        class InferenceRequest:
            def __init__(
                self,
                model_name: str,
                requested_output_names: list[str],
                inputs: list[Tensor],
                preferred_memory: PreferredMemory,
            ) -> None:
                self._call = model_name, inputs, requested_output_names

            def exec(self) -> InferenceResponse:
                return server.infer(*self._call)

        members = {
            "InferenceRequest": InferenceRequest,
            "InferenceResponse": InferenceResponse,
            "PreferredMemory": PreferredMemory,
            "TRITONSERVER_MEMORY_CPU": 0,
            "Tensor": Tensor,
            "TritonError": TritonError,
            "get_input_tensor_by_name": lambda request, name: by_name(request.inputs, name),
            "get_output_tensor_by_name": lambda response, name: by_name(response.output_tensors, name),
        }
        for name, member in members.items():
            setattr(module, name, member)
        return module

    @contextmanager
    def serving(self) -> Iterator[StandInServer]:
        """Load the Python models."""
        sys.modules[UTILS] = self.utils()
        try:
            for name, config in self.configs.items():
                if config.backend == "python":
                    folder = self.version(name)
                    spec = importlib.util.spec_from_file_location("served_model", folder / "model.py")
                    assert spec is not None
                    assert spec.loader is not None
                    module = importlib.util.module_from_spec(spec)
                    spec.loader.exec_module(module)
                    model = module.TritonPythonModel()
                    model.initialize({"model_repository": str(folder.parent), "model_version": folder.name})
                    assert not self.requests, "no model may call another one before all are loaded"
                    self._models[name] = model
            yield self
        finally:
            for model in self._models.values():
                model.finalize()
            del sys.modules[UTILS]

    def warm_up(self) -> int:
        """Run the first calls that the configs ask for, as the server does before a model is ready."""
        count = 0
        for name, config in self.configs.items():
            for first in config.model_warmup:
                inputs = []
                for key, value in first.inputs.items():
                    kind = next(i for i in config.input if i.name == key).data_type
                    assert value.data_type == kind
                    assert value.zero_data
                    inputs.append(Tensor(key, np.zeros(tuple(value.dims), numpy_type(kind))))
                response = self.infer(name, inputs, [o.name for o in config.output])
                assert not response.has_error(), response.error()
                count += 1
        return count

    def infer(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> InferenceResponse:
        self.requests.append(name)
        config = self.configs[name]
        if name in self.broken:
            return InferenceResponse([], TritonError("out of order"))
        check(config.input, inputs)
        if config.backend == "python":
            (response,) = self._models[name].execute([Request(inputs, outputs)])
            found = response.output_tensors
        else:
            feed = {tensor.name(): tensor.as_numpy() for tensor in inputs}
            arrays = self._session(name).run(list(outputs), feed)
            found = [Tensor(o, array) for o, array in zip(outputs, arrays, strict=True)]
            for tensor in found:
                weakref.finalize(tensor, tensor.as_numpy().view(np.uint8).fill, 0xAA)
            response = InferenceResponse(found)
        if not response.has_error():
            assert [tensor.name() for tensor in found] == list(outputs)
            check([o for o in config.output if o.name in outputs], found)
        return response

    def _session(self, name: str) -> onnxruntime.InferenceSession:
        if name not in self._sessions:
            config = self.configs[name]
            assert config.backend == "onnxruntime"
            options = onnxruntime.SessionOptions()
            if "intra_op_thread_count" in config.parameters:
                options.intra_op_num_threads = int(config.parameters["intra_op_thread_count"].string_value)
            path = self.version(name) / config.default_model_filename
            self._sessions[name] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return self._sessions[name]


def read_config(path: Path) -> Any:
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    assert config.name == path.parent.name
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    for tensor in (*config.input, *config.output):
        assert len(tensor.dims) > 0
        assert all(d == -1 or d > 0 for d in tensor.dims)
    return config


def numpy_type(kind: int) -> np.dtype[Any]:
    name = model_config_pb2.DataType.Name(kind).removeprefix("TYPE_").lower()
    return np.dtype({"fp32": "float32", "fp16": "float16", "string": "object"}.get(name, name))


def check(specs: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Check tensors against a config, as the server does."""
    by = {spec.name: spec for spec in specs}
    assert len({tensor.name() for tensor in tensors}) == len(tensors)
    for tensor in tensors:
        spec, array = by.pop(tensor.name()), tensor.as_numpy()
        kind = model_config_pb2.DataType.Name(spec.data_type).removeprefix("TYPE_")
        assert np_to_triton_dtype(array.dtype).replace("BYTES", "STRING") == kind, tensor.name()
        assert len(array.shape) == len(spec.dims), tensor.name()
        assert all(d in (-1, n) for d, n in zip(spec.dims, array.shape, strict=True)), (tensor.name(), array.shape)
    assert all(getattr(spec, "optional", False) for spec in by.values()), by.keys()
