"""ONNX Runtime, on the CPU, or on an NVIDIA GPU through its CUDA or TensorRT provider."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
import onnx

from esam_rt.engines.cuda.array_interface import ALIGNMENT, DEFAULT_STREAMS, is_gpu_array, stream_address
from esam_rt.engines.cuda.device import CudaDevice
from esam_rt.engines.engine import Tensor, check_feed
from esam_rt.engines.onnxruntime.ort_cuda_graphs import Kept, Replays, bind_input
from esam_rt.engines.onnxruntime.providers import (
    GATE,
    PROVIDERS,
    Placed,
    TensorRTCache,
    import_onnxruntime,
    is_out_of_memory,
    open_session,
    runtime_errors,
)
from esam_rt.engines.shape_profiles import profile_shapes
from esam_rt.errors import EngineError, EsamError, ModelError, OutOfMemoryError, SettingsError, did_you_mean
from esam_rt.storage.onnx_files import check_graph_file

_log = logging.getLogger("esam_rt")

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeEngine:
    """An ONNX file behind the `Engine` protocol; `infer` may be called from several threads at once.

    device: `cpu`, `cuda`, or `tensorrt`, which is the GPU through TensorRT, and CUDA for what that does not take.
    threads: of one call on the CPU, default all cores. cuda_graphs: on `cuda`, whether calls that repeat are run as a
    CUDA graph, on memory that stays. stream: a caller's, on which all work is done; see `CudaDevice`. Default own
    ones. cache: folder where TensorRT's provider keeps engines and timings; it trusts them. None = built at each start.
    max_batch: prompts of one call at most that TensorRT builds for. in_arena: whether the memory on `cuda` is that of
    `gpu_arena`. whole: whether no node of the graph may run on the CPU, when it is placed on `cuda`.
    gpu: index of the GPU.
    Errors: SettingsError for an unknown device or options that it does not have, MissingDependencyError without ONNX
    Runtime or TensorRT, DeviceError for a device that is out of memory or not to be had (never a quiet run on the CPU),
    ModelError for a file that is missing or no ONNX model.
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
        if device not in PROVIDERS:
            raise SettingsError(f"Unknown device {device!r}.{did_you_mean(device, PROVIDERS)}")
        if threads is not None and threads < 1:
            raise SettingsError(f"threads: found {threads}, expected at least 1.")
        if cuda_graphs and device != "cuda":
            raise SettingsError(f"CUDA graphs are for device cuda, found device {device}.")
        if stream is not None and device == "cpu":
            raise SettingsError("A CUDA stream is for a GPU, found device cpu.")
        import_onnxruntime(device)
        check_graph_file(path)
        built = TensorRTCache(cache, profile_shapes(path, _extents(path), max_batch)) if device == "tensorrt" else None
        address = None if stream is None else stream_address(stream)
        self._name, self._device, self._callers, self._index = path.name, device, stream, gpu
        self._stream = None if address in DEFAULT_STREAMS else address
        placed = Placed(device, threads, self._stream, tensorrt=built, in_arena=in_arena, whole=whole, gpu=gpu)
        with self._gate():
            self._session: Any = open_session(str(path), path, placed)
        self.inputs = tuple(_tensor(path, t) for t in self._session.get_inputs())
        self.outputs = tuple(_tensor(path, t) for t in self._session.get_outputs())
        self._replays = Replays(path.name, path, placed, self.inputs, self.outputs) if cuda_graphs else None

    def infer(self, feed: Mapping[str, Any], keep: Collection[str] = ()) -> dict[str, Any]:
        """Run once; see `Engine`. On a GPU also takes arrays of other libraries in place, by DLPack or
        `__cuda_array_interface__`; whoever made one of the latter on a stream that it does not name, and that is not
        the engine's, must have waited for it. InputError for one that is not C-contiguous or on another GPU,
        OutOfMemoryError when the device is out of memory."""
        session = self._session  # a close() meanwhile does not pull it away
        if session is None:
            raise EngineError(f"{self._name}: used after close().")
        placed = {name: self._placed(name, array) for name, array in feed.items()}
        check_feed(self._name, self.inputs, placed)
        replays = self._replays
        if replays is not None:
            failures: tuple[type[Exception], ...] = (EsamError, *runtime_errors())
            try:
                if (replayed := replays.run(placed, keep)) is not None:
                    return replayed
            except failures as e:
                self._stop_replaying(e)
        try:
            with self._gate():
                values = self._run(session, placed, keep)
            result = {
                t.name: Kept(values[t.name], t.dtype) if t.name in keep else values[t.name].numpy()
                for t in self.outputs
            }
        except runtime_errors() as e:
            if is_out_of_memory(e):
                if replays is not None:
                    replays.forget()
                raise OutOfMemoryError(
                    f"{self._name}: out of memory; use smaller batches or a smaller model: {e}"
                ) from e
            raise EngineError(f"{self._name}: ONNX Runtime failed: {e}") from e
        if replays is not None:
            replays.ran(placed, {name: tuple(array.shape) for name, array in result.items()})
        return result

    def _run(self, session: Any, feed: Mapping[str, Any], keep: Collection[str]) -> dict[str, Any]:
        """Outputs as ONNX Runtime's values, those in `keep` on the device."""
        binding = session.io_binding()
        for name, array in feed.items():
            bind_input(binding, name, array, self._index)
        memory = ("cpu", 0) if self._device == "cpu" else ("cuda", self._index)
        for t in self.outputs:
            binding.bind_output(t.name, *(memory if t.name in keep else ("cpu", 0)))
        session.run_with_iobinding(binding)
        return dict(zip((t.name for t in self.outputs), binding.get_outputs(), strict=True))

    def _placed(self, name: str, array: Any) -> Any:
        """An input as an array of the host, as kept by an engine, or as memory of the GPU that may be read."""
        if isinstance(array, Kept | np.ndarray | np.generic):
            return array
        if self._device == "cpu" or not is_gpu_array(array):
            raise EngineError(f"{self._name}: input {name}: was kept by another backend.")
        with self._gate():
            found = self._gpu.located(array)
            if self._stream is None:  # nobody knows the session's own streams: what it reads must be there
                self._gpu.synchronise()
        found.check_is_contiguous()
        if found.pointer % ALIGNMENT:
            raise EngineError(
                f"{self._name}: input {name}: expected GPU memory aligned to {ALIGNMENT} bytes, got a part of a "
                "greater array; copy it first."
            )
        return found

    @functools.cached_property
    def _gpu(self) -> CudaDevice:
        """What finds arrays of other libraries; needs cuda-python."""
        return CudaDevice(index=self._index, stream=self._callers)

    def _gate(self) -> AbstractContextManager[None]:
        """Context of what uses the GPU."""
        return contextlib.nullcontext() if self._device == "cpu" else GATE.shared()

    def _stop_replaying(self, why: Exception) -> None:
        """Run all calls as any from now on."""
        replays, self._replays = self._replays, None
        if replays is not None:
            _log.warning("%s: no CUDA graph could be made (%s); going on without.", self._name, str(why))
            replays.close()

    def close(self) -> None:
        """Release the session; see `Engine`. On the CPU the arena that all sessions share keeps its memory for later
        ones."""
        if self._replays is not None:
            self._replays.close()
        with self._gate():
            self._session = self._replays = None
            self.__dict__.pop("_gpu", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _tensor(path: Path, node: Any) -> Tensor:
    """Name, dtype and shape of a session's input or output."""
    if node.type not in DTYPES:
        raise ModelError(f"{path}: {node.name}: found {node.type}, expected one of {', '.join(DTYPES)}.")
    shape = tuple(extent if isinstance(extent, int) else None for extent in node.shape)
    return Tensor(node.name, np.dtype(DTYPES[node.type]), shape)


def _extents(path: Path) -> dict[str, list[int | str]]:
    """The shapes of a graph's inputs, free extents by name."""
    graph = onnx.load_model(path, load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    return {
        t.name: [d.dim_value if d.HasField("dim_value") else d.dim_param for d in t.type.tensor_type.shape.dim]
        for t in graph.input
        if t.name not in weights
    }
