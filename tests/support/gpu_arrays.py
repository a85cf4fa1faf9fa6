"""Arrays of other libraries in the memory of a stand-in for a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.fake_cuda import FakeCuda, MemoryKind, Operation


class Foreign:
    """An array of another library, with `__cuda_array_interface__`."""

    def __init__(self, cuda: FakeCuda, array: NDArray[Any], index: int = 0, **interface: Any) -> None:
        self.block = cuda.allocate(max(1, array.nbytes), MemoryKind.cudaMemoryTypeDevice, index)
        self.cuda = cuda
        host = np.frombuffer(self.block.storage, np.uint8)
        at = self.block.address - host.ctypes.data
        self.content: NDArray[Any] = host[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        self.content[...] = array
        self.interface = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.block.address, False),
            "strides": None,
            **interface,
        }

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface

    def __del__(self) -> None:
        if self.cuda.uses(lambda operation: self.block in operation.blocks):
            raise self.cuda.violated("memory of another library given back while a stream uses it")
        self.cuda.free(self.block)


class ByDlpack:
    """An array of another library, or a part of it, shared by DLPack. Like PyTorch it is written just before the stream
    that asks for it reads it."""

    def __init__(self, memory: Foreign, part: Any = ..., *, kind: int = 2, error: Exception | None = None) -> None:
        pytest.importorskip("cuda.core")
        self.memory, self.part, self.kind, self.error = memory, part, kind, error
        self.written = memory.content.copy()
        memory.content[...] = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> Any:
        if self.error is not None:
            raise self.error
        assert stream is not None
        cuda, content = self.memory.cuda, self.memory.content

        def write() -> None:
            content[...] = self.written

        cuda.enqueue(0 if stream == 1 else stream, Operation(write, (self.memory.block,)))
        return content[self.part].__dlpack__(max_version=max_version)
