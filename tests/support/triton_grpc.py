"""The stand-in server behind Triton's own gRPC protocol."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor, triton_to_np_dtype

from tests.support.triton_server import StandInServer, Tensor


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers ModelInfer and the registration of shared memory."""

    def __init__(self, server: StandInServer) -> None:
        self.server = server
        self.regions: dict[str, bytes] = {}

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802 - of the protocol
        with Path("/dev/shm", request.key.lstrip("/")).open("rb") as file:
            self.regions[request.name] = mmap.mmap(file.fileno(), request.byte_size, prot=mmap.PROT_READ)[:]
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.regions.pop(request.name)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        raw = iter(request.raw_input_contents)
        inputs = [Tensor(tensor.name, self._array(tensor, raw)) for tensor in request.inputs]
        answer = self.server.infer(request.model_name, inputs, [output.name for output in request.outputs])
        if answer.has_error():
            context.abort(grpc.StatusCode.INTERNAL, str(answer.error()))
        response = service_pb2.ModelInferResponse(model_name=request.model_name)
        for tensor in answer.output_tensors:
            array = tensor.as_numpy()
            kind = np_to_triton_dtype(array.dtype)
            response.outputs.add(name=tensor.name(), datatype=kind, shape=array.shape)
            data = serialize_byte_tensor(array).item() if kind == "BYTES" else array.tobytes()
            response.raw_output_contents.append(data)
        return response

    def _array(self, tensor: Any, raw: Iterator[bytes]) -> NDArray[Any]:
        parameters = tensor.parameters
        in_memory = "shared_memory_region" in parameters
        data = self.regions[parameters["shared_memory_region"].string_param] if in_memory else next(raw)
        return np.frombuffer(data, triton_to_np_dtype(tensor.datatype)).reshape(tuple(tensor.shape))


@contextmanager
def listening(server: StandInServer) -> Iterator[str]:
    """Listen on a free port of this machine, and yield its address."""
    service = grpc.server(ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(server), service)
    port = service.add_insecure_port("localhost:0")
    service.start()
    try:
        yield f"localhost:{port}"
    finally:
        service.stop(None).wait()
