"""TritonEngine: a network that another model of the same Triton server runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from esam_rt.engines import Array, TensorSpec
from esam_rt.engines.engine import check_feed
from esam_rt.errors import EngineError
from esam_rt.integrations.triton.served_model import NetworkSpec


@dataclass(frozen=True)
class ServerTensor:
    """An output that stays in the server's memory, and is passed on as it is.

    Attributes:
        tensor: Triton's tensor.
        spec: Its name and type.
        shape: Its dimensions.
    """

    tensor: Any
    spec: TensorSpec
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the elements."""
        return self.spec.dtype


class TritonEngine:
    """Runs a network by a request to its model in the same server (business logic scripting).

    Args:
        library: The module ``triton_python_backend_utils``, which exists in the server alone.
        name: Name of the network's model in the server.
        graph: Its tensors.
    """

    def __init__(self, library: Any, name: str, graph: NetworkSpec) -> None:
        self._library, self._name, self._graph = library, name, graph
        self._memory = library.PreferredMemory(library.TRITONSERVER_MEMORY_CPU, 0)
        self._is_closed = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that ``infer`` expects."""
        return self._graph.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that ``infer`` returns."""
        return self._graph.outputs

    def infer(self, feed: Mapping[str, Array], outputs_on_device: Collection[str] = ()) -> dict[str, Any]:
        """Send the request and wait for its answer. Tensors go through the server's shared memory on the host.

        Args:
            feed: One array for each input, by name.
            outputs_on_device: Names of outputs that are passed on to another network.

        Returns:
            All outputs by name.

        Raises:
            EngineError: An array has another type or shape, the engine is closed, or the server answers with an error.
        """
        if self._is_closed:
            raise EngineError(f"{self._name}: used after close().")
        check_feed(self._name, self.inputs, feed)
        request = self._library.InferenceRequest(
            model_name=self._name,
            requested_output_names=[t.name for t in self.outputs],
            inputs=[self._tensor(t, feed[t.name]) for t in self.inputs],
            preferred_memory=self._memory,
        )
        response = request.exec()
        if response.has_error():
            raise EngineError(f"{self._name}: the server answered: {response.error().message()}")
        return {t.name: self._output(response, t, t.name in outputs_on_device) for t in self.outputs}

    def _tensor(self, spec: TensorSpec, array: Array) -> Any:
        if isinstance(array, ServerTensor):
            return array.tensor
        return self._library.Tensor(spec.name, np.ascontiguousarray(array))

    def _output(self, response: Any, spec: TensorSpec, passed_on: bool) -> Any:
        tensor = self._library.get_output_tensor_by_name(response, spec.name)
        if tensor is None:
            raise EngineError(f"{self._name}: the server's answer lacks {spec.name}.")
        array = tensor.as_numpy()
        if not spec.accepts(array):
            raise EngineError(f"{self._name}: {spec.name} has {array.dtype} {array.shape}, expected {spec}.")
        return ServerTensor(tensor, spec, array.shape) if passed_on else array.copy()  # the server reuses its memory

    def close(self) -> None:
        """Send no more requests."""
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, t: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
