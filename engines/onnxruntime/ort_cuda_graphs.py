"""Calls that repeat on a GPU: ONNX Runtime captures them as one CUDA graph, on memory that stays.

What ONNX Runtime asks for is kept here: inputs and outputs never move, a replay reads and writes those of the capture
whatever is bound, graphs belong to the thread that captured them, and nobody else may use a GPU during a capture.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from esam_rt.engines.cuda.array_interface import GpuArray
from esam_rt.engines.engine import Tensor
from esam_rt.engines.onnxruntime.providers import GATE, Placed, open_session

OPSET, IR_VERSION = 18, 9
ONNX_TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "uint8": onnx.TensorProto.UINT8,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Kept:
    """An output in ONNX Runtime's own memory, on the CPU or the GPU; see `base.Kept`. lease: of memory that is used
    again when nobody holds this any more."""

    value: Any
    dtype: np.dtype[Any]
    lease: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""
        return tuple(self.value.shape())


Feed: TypeAlias = Mapping[str, np.ndarray[Any, Any] | Kept | GpuArray]


def bind_input(binding: Any, name: str, array: Any, gpu: int = 0) -> None:
    """Bind an input: in place if it is on a device, else copied from the host."""
    if isinstance(array, Kept):
        binding.bind_ortvalue_input(name, array.value)
    elif isinstance(array, GpuArray):
        binding.bind_input(name, "cuda", gpu, element_type(array.dtype), list(array.shape), array.pointer)
    else:
        # asarray: ONNX Runtime takes a scalar as an array of no dimensions only.
        binding.bind_cpu_input(name, np.ascontiguousarray(array).reshape(array.shape))


def element_type(dtype: np.dtype[Any]) -> Any:
    """A dtype as ONNX Runtime takes it: NumPy's type, ONNX's number for what NumPy has not."""
    return int(ONNX_TYPES["bfloat16"]) if dtype.name == "bfloat16" else dtype.type


def copying(tensors: list[Tensor]) -> bytes:
    """An ONNX model that copies these tensors, each to an output `NAME copied`."""

    def info(name: str, t: Tensor) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, ONNX_TYPES[t.dtype.name], [None] * len(t.shape))

    names = {t.name: f"{t.name} copied" for t in tensors}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [copied]) for name, copied in names.items()],
        "copy",
        [info(t.name, t) for t in tensors],
        [info(names[t.name], t) for t in tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class _Key:
    """What makes two calls one. on_device: inputs that are not fed from the host."""

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    on_device: frozenset[str]

    @property
    def size(self) -> int:
        """Elements of the inputs."""
        return sum(math.prod(shape) for _, shape in self.inputs)


class _Lease:
    """Whoever holds it has outputs of the last replay."""


@dataclass
class _Capture:
    """A session with its one graph, and the memory of that. copied: of the inputs on the device, what they hold."""

    key: _Key
    session: Any
    binding: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    copy: Callable[[Feed], None]
    copied: dict[str, Callable[[], object]] = field(default_factory=dict)
    lease: Callable[[], object] = lambda: None
    is_made: bool = False


class Replays:
    """The calls of a network that repeat, as a CUDA graph: of one shape at a time, the largest that has repeated.

    name: of the network, for messages. model: its ONNX file. placed: on device `cuda`. inputs, outputs: its tensors.
    Threads may share it. The graph has a session of its own: of the memory that a graph used for its scratch another
    call of the same session could get an output.
    """

    def __init__(
        self, name: str, model: Path, placed: Placed, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
    ) -> None:
        self._name, self._model, self._placed = name, model, placed
        self._inputs, self._outputs = inputs, outputs
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="esam-rt-graphs")
        self._last: tuple[_Key, Shapes] | None = None
        self._capture: _Capture | None = None

    def run(self, feed: Feed, keep: Collection[str]) -> dict[str, Any] | None:
        """The outputs of a call; None where it is to be run as any: it does not repeat, or outputs of the last replay
        are still in somebody's hands. Errors as the library raises them, and as of `open_session`."""
        key = self._key(feed)
        with self._lock:
            capture, self._capture = self._capture, None  # of what fails, or is interrupted, nothing is used again
            if capture is None or capture.key != key:
                repeats = self._last is not None and self._last[0] == key
                if self._last is None or not repeats or (capture is not None and capture.key.size >= key.size):
                    self._capture = capture
                    return None
                with GATE.shared():
                    capture = None  # frees its memory
                    capture = self._new_capture(key, self._last[1])
            elif capture.lease() is not None:
                self._capture = capture
                return None
            result = self._replay(capture, feed, keep)
            self._capture = capture
            return result

    def ran(self, feed: Feed, outputs: Shapes) -> None:
        """Note a call that was run as any, with the shapes that its outputs had."""
        with self._lock:
            self._last = self._key(feed), outputs

    def forget(self) -> None:
        """Free what the graph holds; outputs that somebody has stay."""
        with self._lock, GATE.shared():
            self._capture = self._last = None

    def close(self) -> None:
        """Free everything, once a replay in another thread has ended."""
        self.forget()
        self._thread.shutdown()

    def _key(self, feed: Feed) -> _Key:
        shapes = tuple((t.name, tuple(feed[t.name].shape)) for t in self._inputs)
        return _Key(shapes, frozenset(name for name, array in feed.items() if isinstance(array, Kept | GpuArray)))

    def _new_capture(self, key: _Key, outputs: Shapes) -> _Capture:
        """Memory and session of a call; nothing is captured yet."""
        import onnxruntime

        def allocated(t: Tensor, shape: tuple[int, ...]) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                list(shape), element_type(t.dtype), "cuda", self._placed.gpu
            )

        shapes = dict(key.inputs)
        fed = {t.name: allocated(t, shapes[t.name]) for t in self._inputs}
        made = {t.name: allocated(t, outputs[t.name]) for t in self._outputs}
        session = open_session(self._name, self._model, replace(self._placed, cuda_graphs=True))
        binding = session.io_binding()
        for name, value in fed.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in made.items():
            binding.bind_ortvalue_output(name, value)
        on_device = [t for t in self._inputs if t.name in key.on_device]
        copy = self._copier(on_device, fed) if on_device else lambda feed: None
        return _Capture(key, session, binding, fed, made, copy)

    def _copier(self, tensors: list[Tensor], targets: Mapping[str, Any]) -> Callable[[Feed], None]:
        """What copies these inputs to where the graph reads them, on the device: a network that does nothing else,
        since ONNX Runtime before 1.32 has no other way."""
        session = open_session("copy", copying(tensors), self._placed)

        def copy(feed: Feed) -> None:
            binding = session.io_binding()
            for t in tensors:
                bind_input(binding, t.name, feed[t.name], self._placed.gpu)
                binding.bind_ortvalue_output(f"{t.name} copied", targets[t.name])
            session.run_with_iobinding(binding)

        return copy

    def _replay(self, capture: _Capture, feed: Feed, keep: Collection[str]) -> dict[str, Any]:
        """Copy in, run, copy out. The first run warms up and captures, for which it must be alone."""
        with GATE.shared():
            on_device = {name: feed[name] for name in capture.key.on_device}
            if any(capture.copied.get(name, lambda: None)() is not array for name, array in on_device.items()):
                capture.copy(feed)
                # What was kept does not change. What others own may, and is another `GpuArray` at each call.
                capture.copied = {name: weakref.ref(array) for name, array in on_device.items()}
            for name, array in feed.items():
                if isinstance(array, np.ndarray | np.generic):
                    capture.inputs[name].update_inplace(np.ascontiguousarray(array).reshape(array.shape))
        with GATE.shared() if capture.is_made else GATE.alone():
            self._thread.submit(capture.session.run_with_iobinding, capture.binding).result()
            capture.is_made = True
        with GATE.shared():
            fetched = {t.name: capture.outputs[t.name].numpy() for t in self._outputs if t.name not in keep}
        lease = _Lease()
        capture.lease = weakref.ref(lease) if len(fetched) < len(self._outputs) else lambda: None
        return {
            t.name: fetched[t.name] if t.name in fetched else Kept(capture.outputs[t.name], t.dtype, lease)
            for t in self._outputs
        }
