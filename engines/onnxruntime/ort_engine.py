"""Engine of ONNX Runtime: on the CPU, or on an NVIDIA GPU through the CUDA or the TensorRT provider."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx

from esam_rt.engines.cuda.array_interface import DEFAULT_STREAMS, check_alignment, is_gpu_array, stream_address
from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.engines.dtypes import ONNXRUNTIME_DTYPES
from esam_rt.engines.engine import TensorSpec, check_feed
from esam_rt.engines.library_errors import MESSAGE_CHARS, message_of
from esam_rt.engines.onnxruntime.capture_lock import CAPTURE_LOCK
from esam_rt.engines.onnxruntime.ort_cuda_graphs import OrtDeviceTensor, OrtGraphs, bind_input
from esam_rt.engines.onnxruntime.providers import (
    PROVIDERS,
    SessionConfig,
    TensorRTCache,
    import_onnxruntime,
    is_out_of_memory,
    open_session,
    runtime_errors,
)
from esam_rt.engines.shape_profiles import shape_ranges
from esam_rt.errors import EngineError, ModelError, OutOfMemoryError, SettingsError, did_you_mean
from esam_rt.storage.onnx_files import check_graph_file, checked_text


class OnnxRuntimeEngine:
    """An ONNX file that ONNX Runtime runs. It is an ``Engine``.

    On the CPU all sessions of the process share one memory arena. It keeps its memory after ``close``.

    Args:
        path: ONNX file.
        device: ``cpu``, ``cuda`` or ``tensorrt``. The last is the GPU through TensorRT, with CUDA for the nodes that
            TensorRT does not support.
        threads: CPU threads of one call. Default: one for each CPU that the process may use.
        cuda_graphs: Run calls that repeat as CUDA graphs, on device ``cuda``.
        stream: The caller's CUDA stream for all work; see ``CudaDevice``. Default: streams of the library.
        cache: Folder in which the TensorRT provider keeps engines and timings. The provider trusts its files. Default:
            the engine is built at each start.
        max_batch: Largest number of prompts in one call, for which TensorRT builds.
        in_arena: Allocate from the ``gpu_arena``, on device ``cuda``.
        whole: Raise an error if a node of the graph would run on the CPU, on device ``cuda``.
        gpu: Index of the GPU.

    Raises:
        SettingsError: The device is unknown or does not have an option.
        MissingDependencyError: ONNX Runtime, CUDA, cuDNN or TensorRT is missing.
        DeviceError: The device is not available or out of memory. There is no silent run on the CPU.
        ModelError: The file is missing or no ONNX model.
    """

    def __init__(
        self,
        path: Path,
        device: str = "cpu",
        threads: int | None = None,
        *,
        cuda_graphs: bool = False,
        stream: Any = None,
        cache: Path | None = None,
        max_batch: int = 64,
        in_arena: bool = False,
        whole: bool = False,
        gpu: int = 0,
    ) -> None:
        _check_options(device, threads, cuda_graphs, stream)
        import_onnxruntime(device)
        check_graph_file(path)
        self._name, self._device, self._gpu_index, self._callers_stream = path.name, device, gpu, stream
        address = None if stream is None else stream_address(stream)
        self._stream = None if address in DEFAULT_STREAMS else address
        tensorrt = None
        if device == "tensorrt":
            tensorrt = TensorRTCache(cache, shape_ranges(path, _input_shapes(path), max_batch))
        config = SessionConfig(
            device, threads, self._stream, tensorrt=tensorrt, in_arena=in_arena, whole=whole, gpu=gpu
        )
        with self._gpu_use():
            self._session: Any = open_session(str(path), path, config)
        try:
            self.inputs = tuple(_tensor_spec(path, t) for t in self._session.get_inputs())
            self.outputs = tuple(_tensor_spec(path, t) for t in self._session.get_outputs())
        except UnicodeDecodeError as e:
            raise ModelError(
                f"{path}: found a name that is no UTF-8 ({message_of(e):.80}); the file is damaged. Export it again."
            ) from e
        self._graphs = OrtGraphs(path.name, path, config, self.inputs, self.outputs) if cuda_graphs else None

    def infer(self, feed: Mapping[str, Any], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        """Run the network once; see ``Engine``.

        On a GPU it also accepts arrays of other libraries, by DLPack or ``__cuda_array_interface__``, and reads them in
        place. If such an interface names no stream, the caller must have waited for the array's content, unless it was
        computed on the engine's stream.

        Args:
            feed: One array for each input, by name.
            outputs_on_device: Names of the outputs that must stay on the device.

        Returns:
            All outputs by name: NumPy arrays, and ``OrtDeviceTensor`` for ``outputs_on_device``.

        Raises:
            EngineError: An input is wrong, the engine is closed, or the library failed.
            InputError: An array is not C-contiguous or lies on another GPU.
            OutOfMemoryError: The device has too little memory. The engine stays usable.
        """
        session, graphs = self._session, self._graphs  # a close() in another thread must not take them away
        if session is None:
            raise EngineError(f"{self._name}: used after close().")
        arrays = {name: self._as_input(name, array) for name, array in feed.items()}
        check_feed(self._name, self.inputs, arrays)
        if graphs is not None and (outputs := graphs.run(arrays, outputs_on_device)) is not None:
            return outputs
        try:
            outputs = self._run(session, arrays, outputs_on_device)
        except runtime_errors() as e:
            if not is_out_of_memory(e):
                raise EngineError(f"{self._name}: ONNX Runtime failed: {message_of(e)[:MESSAGE_CHARS]}") from e
            if graphs is not None:
                graphs.free_memory()
            raise OutOfMemoryError(
                f"{self._name}: out of memory; use smaller batches or a smaller model: {message_of(e)[:MESSAGE_CHARS]}"
            ) from e
        if graphs is not None:
            graphs.note_call(arrays, {name: tuple(array.shape) for name, array in outputs.items()})
        return outputs

    def _run(self, session: Any, arrays: Mapping[str, Any], outputs_on_device: Collection[str]) -> dict[str, Any]:
        """Run a call without a graph."""
        with self._gpu_use():
            binding = session.io_binding()
            for name, array in arrays.items():
                bind_input(binding, name, array, self._gpu_index)
            memory = ("cpu", 0) if self._device == "cpu" else ("cuda", self._gpu_index)
            for t in self.outputs:
                binding.bind_output(t.name, *(memory if t.name in outputs_on_device else ("cpu", 0)))
            session.run_with_iobinding(binding)
            values = dict(zip((t.name for t in self.outputs), binding.get_outputs(), strict=True))
        return {
            t.name: OrtDeviceTensor(values[t.name], t.dtype) if t.name in outputs_on_device else values[t.name].numpy()
            for t in self.outputs
        }

    def _as_input(self, name: str, array: Any) -> Any:
        """Return an input in a form that can be bound; find arrays of other libraries."""
        if isinstance(array, OrtDeviceTensor | np.ndarray | np.generic):
            return array
        if self._device == "cpu" or not is_gpu_array(array):
            raise EngineError(
                f"{self._name}: input {name}: expected a NumPy array or an output of this backend, got "
                f"{type(array).__name__}."
            )
        with self._gpu_use():
            found = self._gpu.locate(array)
            if self._stream is None:  # the session has streams that nobody else can order work on
                self._gpu.synchronize()
        found.check_is_contiguous()
        check_alignment(f"{self._name}: input {name}", found.pointer)
        return found

    @functools.cached_property
    def _gpu(self) -> CudaDevice:
        """Finds arrays of other libraries. Needs cuda-python."""
        return CudaDevice(index=self._gpu_index, stream=self._callers_stream)

    def _gpu_use(self) -> AbstractContextManager[None]:
        """Context of all work on the GPU: not beside a capture."""
        return contextlib.nullcontext() if self._device == "cpu" else CAPTURE_LOCK.shared()

    def close(self) -> None:
        """Release the session; see ``Engine``."""
        if self._graphs is not None:
            self._graphs.close()
        with self._gpu_use():
            self._session = self._graphs = None
            self.__dict__.pop("_gpu", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _check_options(device: str, threads: int | None, cuda_graphs: bool, stream: Any) -> None:
    """Raise ``SettingsError`` for options that the device does not have."""
    if device not in PROVIDERS:
        raise SettingsError(f"Unknown device {device!r}.{did_you_mean(device, PROVIDERS)}")
    if threads is not None and threads < 1:
        raise SettingsError(f"threads: found {threads}, expected at least 1.")
    if cuda_graphs and device != "cuda":
        raise SettingsError(f"CUDA graphs are for device cuda, found device {device}.")
    if stream is not None and device == "cpu":
        raise SettingsError("A CUDA stream is for a GPU, found device cpu.")


def _tensor_spec(path: Path, node: Any) -> TensorSpec:
    """Describe an input or output of a session."""
    if node.type not in ONNXRUNTIME_DTYPES:
        raise ModelError(f"{path}: {node.name}: found {node.type}, expected one of {', '.join(ONNXRUNTIME_DTYPES)}.")
    shape = tuple(n if isinstance(n, int) else None for n in node.shape)
    return TensorSpec(node.name, ONNXRUNTIME_DTYPES[node.type], shape)


def _input_shapes(path: Path) -> dict[str, list[int | str]]:
    """Read the shapes of a graph's inputs. Dynamic dimensions have names."""
    graph = onnx.load_model(path, load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    return {
        checked_text(path, t.name): [
            d.dim_value if d.HasField("dim_value") else checked_text(path, d.dim_param)
            for d in t.type.tensor_type.shape.dim
        ]
        for t in graph.input
        if t.name not in weights
    }
