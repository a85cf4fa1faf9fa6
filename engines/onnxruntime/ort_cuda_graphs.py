"""CUDA graphs of ONNX Runtime: capture a call that repeats, and replay it on fixed memory.

ONNX Runtime asks for four things. Inputs and outputs must not move. A replay reads and writes the memory of the
capture, whatever is bound later. A graph belongs to the thread that captured it. Nothing else may use the GPU during a
capture.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from esam_rt.engines.cuda.array_interface import GpuArray
from esam_rt.engines.cuda.cuda_graph_policy import CallKey, CapturedGraph, GraphCache, OutputLease
from esam_rt.engines.dtypes import ONNX_TYPES
from esam_rt.engines.engine import TensorSpec
from esam_rt.engines.onnxruntime.capture_lock import CAPTURE_LOCK
from esam_rt.engines.onnxruntime.providers import SessionConfig, open_session, runtime_errors
from esam_rt.errors import EsamError

OPSET, IR_VERSION = 18, 9

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class OrtDeviceTensor:
    """An output in ONNX Runtime's own memory, on the CPU or the GPU. It is a ``DeviceTensor``.

    Attributes:
        value: The library's ``OrtValue``.
        dtype: NumPy dtype.
        lease: Lease of the graph's memory, if a replay wrote the output.
    """

    value: Any
    dtype: np.dtype[Any]
    lease: OutputLease | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return tuple(self.value.shape())


Feed: TypeAlias = Mapping[str, np.ndarray[Any, Any] | OrtDeviceTensor | GpuArray]


def bind_input(binding: Any, name: str, array: Any, gpu: int = 0) -> None:
    """Bind an input: in place if it is on a device, else as a copy.

    Args:
        binding: ``IOBinding`` of a session.
        name: Name of the input.
        array: NumPy array, ``OrtDeviceTensor`` or ``GpuArray``.
        gpu: Index of the GPU.
    """
    if isinstance(array, OrtDeviceTensor):
        binding.bind_ortvalue_input(name, array.value)
    elif isinstance(array, GpuArray):
        binding.bind_input(name, "cuda", gpu, element_type(array.dtype), list(array.shape), array.pointer)
    else:
        # A scalar must be an array without dimensions. ascontiguousarray gives it one dimension.
        binding.bind_cpu_input(name, np.ascontiguousarray(array).reshape(array.shape))


def element_type(dtype: np.dtype[Any]) -> Any:
    """Convert a dtype to the form that ONNX Runtime accepts.

    Args:
        dtype: NumPy dtype.

    Returns:
        NumPy's type, or ONNX' number of a type that NumPy lacks.
    """
    return ONNX_TYPES[dtype] if dtype.name == "bfloat16" else dtype.type


def copy_model(tensors: list[TensorSpec]) -> bytes:
    """Make an ONNX model that copies tensors. ONNX Runtime before 1.32 has no other way to copy on the device.

    Args:
        tensors: Inputs of the model.

    Returns:
        The serialized model. The output ``NAME copied`` is the copy of input ``NAME``.
    """

    def info(name: str, t: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, ONNX_TYPES[t.dtype], [None] * len(t.shape))

    names = {t.name: f"{t.name} copied" for t in tensors}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [copied]) for name, copied in names.items()],
        "copy",
        [info(t.name, t) for t in tensors],
        [info(names[t.name], t) for t in tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


class InputCopier:
    """Copies inputs that lie on the device to the memory that a graph reads.

    Args:
        tensors: The inputs to copy.
        targets: The library's value for each input, by name.
        session: Runs the ``copy_model`` of the tensors.
        gpu: Index of the GPU.
    """

    def __init__(self, tensors: list[TensorSpec], targets: Mapping[str, Any], session: Any, gpu: int) -> None:
        self._names = [t.name for t in tensors]
        self._targets, self._session, self._gpu = targets, session, gpu
        self._copied: dict[str, Callable[[], object]] = {}

    def copy(self, feed: Feed) -> None:
        """Copy the inputs, unless they are those of the last time.

        An output that an engine left on the device does not change. An array of another library may change, but it is a
        new ``GpuArray`` in each call.

        Args:
            feed: Arrays by name.
        """
        if all(self._copied.get(name, lambda: None)() is feed[name] for name in self._names):
            return
        binding = self._session.io_binding()
        for name in self._names:
            bind_input(binding, name, feed[name], self._gpu)
            binding.bind_ortvalue_output(f"{name} copied", self._targets[name])
        self._session.run_with_iobinding(binding)
        self._copied = {name: weakref.ref(feed[name]) for name in self._names}


class OrtGraph(CapturedGraph):
    """A session with one CUDA graph and its fixed memory.

    The graph has a session of its own. A graph's scratch memory is free memory to the session that captured it, so
    another call of the same session could get an output there.

    Args:
        session: Session opened with ``cuda_graphs``.
        inputs: The library's value for each input, by name.
        outputs: The library's value for each output, by name.
        copier: Copies the inputs that lie on the device. None if there are none.
        thread: The one thread that captures and replays.
    """

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        copier: InputCopier | None,
        thread: ThreadPoolExecutor,
    ) -> None:
        super().__init__()
        self._session, self._inputs, self._outputs = session, inputs, outputs
        self._copier, self._thread = copier, thread
        self._is_captured = False
        self._binding = session.io_binding()
        for name, value in inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def replay(self, feed: Feed, outputs: tuple[TensorSpec, ...], outputs_on_device: Collection[str]) -> dict[str, Any]:
        """Copy the inputs in, run, and copy the outputs out. The first run captures, with exclusive use of the GPU.

        Args:
            feed: Arrays by name.
            outputs: The network's outputs.
            outputs_on_device: Names of the outputs that stay on the device.

        Returns:
            The outputs by name.
        """
        with CAPTURE_LOCK.shared():
            if self._copier is not None:
                self._copier.copy(feed)
            for name, array in feed.items():
                if isinstance(array, np.ndarray | np.generic):
                    self._inputs[name].update_inplace(np.ascontiguousarray(array).reshape(array.shape))
        with CAPTURE_LOCK.shared() if self._is_captured else CAPTURE_LOCK.exclusive():
            self._thread.submit(self._session.run_with_iobinding, self._binding).result()
            self._is_captured = True
        with CAPTURE_LOCK.shared():
            on_host = {t.name: self._outputs[t.name].numpy() for t in outputs if t.name not in outputs_on_device}
        lease = self.new_lease()
        return {
            t.name: on_host[t.name] if t.name in on_host else OrtDeviceTensor(self._outputs[t.name], t.dtype, lease)
            for t in outputs
        }

    def close(self) -> None:
        """Free the session and the memory. Outputs that are in use keep theirs."""
        with CAPTURE_LOCK.shared():
            self._session = self._binding = self._copier = None
            self._inputs = self._outputs = {}


class OrtGraphs:
    """Runs the calls of a network that repeat as a CUDA graph. Safe to use from several threads.

    It holds one graph, since each has a session with the network's weights: that of the largest call that has repeated.

    Args:
        name: Name of the network, for messages.
        model: ONNX file of the network.
        config: Configuration of the network's session, on device ``cuda``.
        inputs: The network's inputs.
        outputs: The network's outputs.
    """

    def __init__(
        self,
        name: str,
        model: Path,
        config: SessionConfig,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self._name, self._model, self._config = name, model, config
        self._inputs, self._outputs = inputs, outputs
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="esam-rt-graphs")
        self._graphs: GraphCache[OrtGraph] = GraphCache(name, capacity=1, capture_is_slow=True)
        self._output_shapes: Shapes = {}

    def run(self, feed: Feed, outputs_on_device: Collection[str]) -> dict[str, Any] | None:
        """Run a call as a graph, if it has one. A failure ends the use of graphs and logs a warning.

        Args:
            feed: Arrays by name.
            outputs_on_device: Names of the outputs that stay on the device.

        Returns:
            The outputs by name, or None if the call must run without a graph.
        """
        failures: tuple[type[Exception], ...] = (EsamError, *runtime_errors())
        with self._lock:
            try:
                graph = self._graphs.find(self._key(feed), lambda: self._new_graph(feed))
                return None if graph is None else graph.replay(feed, self._outputs, outputs_on_device)
            except failures as e:
                self._graphs.stop(e)
                self._thread.shutdown()
                return None
            except BaseException:  # an interrupted replay may still be running
                self._graphs.discard()
                raise

    def note_call(self, feed: Feed, output_shapes: Shapes) -> None:
        """Remember a call that ran without a graph.

        Args:
            feed: Arrays by name.
            output_shapes: Shapes of the call's outputs, by name.
        """
        with self._lock:
            self._graphs.note(self._key(feed))
            self._output_shapes = output_shapes

    def free_memory(self) -> None:
        """Free the graph, so that a smaller call may have its memory. Outputs that are in use keep theirs."""
        with self._lock:
            self._graphs.discard()
            self._graphs.note(None)

    def close(self) -> None:
        """Free everything. Waits for a replay in another thread."""
        with self._lock:
            self._graphs.close()
        self._thread.shutdown()

    def _key(self, feed: Feed) -> CallKey:
        shapes = tuple((t.name, tuple(feed[t.name].shape)) for t in self._inputs)
        return CallKey(shapes, frozenset(name for name, array in feed.items() if _is_on_device(array)))

    def _new_graph(self, feed: Feed) -> OrtGraph:
        """Allocate the memory and open the sessions of a call. The first replay captures."""
        gpu = self._config.gpu
        with CAPTURE_LOCK.shared():
            inputs = {t.name: _allocate(t, tuple(feed[t.name].shape), gpu) for t in self._inputs}
            outputs = {t.name: _allocate(t, self._output_shapes[t.name], gpu) for t in self._outputs}
            session = open_session(self._name, self._model, replace(self._config, cuda_graphs=True))
            on_device = [t for t in self._inputs if _is_on_device(feed[t.name])]
            copier = None
            if on_device:
                copy_session = open_session("copy", copy_model(on_device), self._config)
                copier = InputCopier(on_device, inputs, copy_session, gpu)
            return OrtGraph(session, inputs, outputs, copier, self._thread)


def _is_on_device(array: object) -> bool:
    return isinstance(array, OrtDeviceTensor | GpuArray)


def _allocate(t: TensorSpec, shape: tuple[int, ...], gpu: int) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), element_type(t.dtype), "cuda", gpu)
