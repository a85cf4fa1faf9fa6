"""The libraries of NVIDIA that ONNX Runtime's providers load: which they want, and whether these are there."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import io
import logging
import struct
from pathlib import Path
from typing import Any

_log = logging.getLogger("esam_rt")

CUDNN = "libcudnn.so.9"  # of all versions; newer ones are not linked to it and load it at the first convolution
PT_LOAD, PT_DYNAMIC, DT_NEEDED, DT_STRTAB, DT_STRSZ = 1, 2, 1, 5, 10
DRIVER = "libcuda.so.1"  # not pip's to bring


@functools.cache
def load_cuda() -> None:
    """Load CUDA and cuDNN from where pip puts them. What it prints of those that are missing is not for stdout:
    `missing_cuda` says so."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # 1.21
        with contextlib.redirect_stdout(io.StringIO()) as words:
            onnxruntime.preload_dlls()
        _log.debug("%s", words.getvalue())


def missing_cuda(onnxruntime: Any) -> tuple[str, str] | None:
    """What the CUDA provider of this ONNX Runtime lacks of CUDA and cuDNN, and the command that brings it; None where
    nothing is missing, or there is no such provider."""
    load_cuda()
    wanted = linked_to(_provider(onnxruntime, "cuda"))
    missing = [name for name in dict.fromkeys((*wanted, CUDNN)) if name != DRIVER and not _is_there(name)]
    if not wanted or not missing:
        return None
    found = f"ONNX Runtime {onnxruntime.__version__} needs {', '.join(missing)}, not to be found"
    return found, "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.21'"


def missing_tensorrt(onnxruntime: Any) -> tuple[str, str] | None:
    """As `missing_cuda`, of TensorRT and its provider; pip's `tensorrt` loads what it brings."""
    nvinfer, cudart = _tensorrt(onnxruntime)
    if nvinfer is None:
        return None
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("tensorrt")
    if _is_there(nvinfer):
        return None
    major = int(nvinfer.rpartition(".")[2])
    package = f"tensorrt-cu{cudart.rpartition('.')[2]}" if cudart else "tensorrt"
    found = f"ONNX Runtime {onnxruntime.__version__} needs TensorRT {major}, {nvinfer} is not to be found"
    return found, f"pip install '{package}>={major},<{major + 1}'"


def tensorrt_version(onnxruntime: Any) -> str:
    """Of the TensorRT that the provider of this ONNX Runtime loads, which is not missing; empty where that cannot be
    told."""
    nvinfer, _ = _tensorrt(onnxruntime)
    with contextlib.suppress(OSError, AttributeError):
        if nvinfer is not None:
            return str(ctypes.CDLL(nvinfer).getInferLibVersion())
    return ""


def linked_to(library: Path) -> list[str]:
    """The libraries that an ELF file of 64 bits, little-endian, is linked to, by its dynamic section (System V ABI,
    chapters 4 and 5); none where there is no such file: the session says whether a provider starts."""
    try:
        with library.open("rb") as file:
            header = file.read(64)
            if header[:6] != b"\x7fELF\2\1":
                return []
            (table,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            file.seek(table)
            # Of each: type, flags, offset in the file, address, address, bytes in the file.
            segments = [struct.unpack_from("<IIQQQQ", file.read(size)) for _ in range(count)]
            dynamic = next(segment for segment in segments if segment[0] == PT_DYNAMIC)
            file.seek(dynamic[2])
            entries = list(struct.iter_unpack("<QQ", file.read(dynamic[5] // 16 * 16)))
            tags = dict(entries)
            strings = tags[DT_STRTAB]
            loaded = next(s for s in segments if s[0] == PT_LOAD and s[3] <= strings < s[3] + s[5])
            file.seek(loaded[2] + strings - loaded[3])
            names = file.read(tags[DT_STRSZ])
    except (OSError, struct.error, KeyError, StopIteration):
        return []
    return [names[at:].split(b"\0", 1)[0].decode("ascii", "replace") for tag, at in entries if tag == DT_NEEDED]


def _provider(onnxruntime: Any, name: str) -> Path:
    """The library of a provider, as Linux calls it."""
    return Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"


def _tensorrt(onnxruntime: Any) -> tuple[str | None, str | None]:
    """The names by which the provider loads TensorRT and the runtime of CUDA."""
    wanted = linked_to(_provider(onnxruntime, "tensorrt"))
    nvinfer, cudart = (next((n for n in wanted if n.startswith(f"lib{of}.so.")), None) for of in ("nvinfer", "cudart"))
    return nvinfer, cudart


def _is_there(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
