"""Find out if the NVIDIA libraries that ONNX Runtime's providers load are installed."""

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

CUDNN = "libcudnn.so.9"  # newer providers are not linked to it; they load it at the first convolution
PT_LOAD, PT_DYNAMIC, DT_NEEDED, DT_STRTAB, DT_STRSZ = 1, 2, 1, 5, 10
DRIVER = "libcuda.so.1"  # comes with the driver, not with pip


@functools.cache
def load_cuda() -> None:
    """Load CUDA and cuDNN from pip's packages.

    The library prints its failures to stdout. They go to the log, and ``missing_cuda`` reports them.
    """
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            onnxruntime.preload_dlls()
        _log.debug("%s", printed.getvalue())


def missing_cuda(onnxruntime: Any) -> tuple[str, str] | None:
    """Find the libraries of CUDA and cuDNN that the CUDA provider needs and that are missing.

    Args:
        onnxruntime: The imported module.

    Returns:
        A sentence about the missing libraries and the command that installs them. None if there is no CUDA provider or
        nothing is missing.
    """
    load_cuda()
    needed = linked_to(_provider(onnxruntime, "cuda"))
    missing = [name for name in dict.fromkeys((*needed, CUDNN)) if name != DRIVER and not _is_installed(name)]
    if not needed or not missing:
        return None
    found = f"ONNX Runtime {onnxruntime.__version__} needs {', '.join(missing)}, not found"
    return found, "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.21'"


def missing_tensorrt(onnxruntime: Any) -> tuple[str, str] | None:
    """Find out if the TensorRT that the TensorRT provider needs is missing.

    Args:
        onnxruntime: The imported module.

    Returns:
        A sentence about the missing library and the command that installs it. None if there is no such provider or
        nothing is missing.
    """
    nvinfer, cudart = _tensorrt_libraries(onnxruntime)
    if nvinfer is None:
        return None
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module("tensorrt")  # pip's package loads its libraries
    if _is_installed(nvinfer):
        return None
    major = int(nvinfer.rpartition(".")[2])
    package = f"tensorrt-cu{cudart.rpartition('.')[2]}" if cudart else "tensorrt"
    found = f"ONNX Runtime {onnxruntime.__version__} needs TensorRT {major}, {nvinfer} not found"
    return found, f"pip install '{package}>={major},<{major + 1}'"


def tensorrt_version(onnxruntime: Any) -> str:
    """Read the version of the TensorRT that the TensorRT provider loads.

    Args:
        onnxruntime: The imported module.

    Returns:
        The library's version number. Empty if the library is missing or does not tell.
    """
    nvinfer, _ = _tensorrt_libraries(onnxruntime)
    with contextlib.suppress(OSError, AttributeError):
        if nvinfer is not None:
            return str(ctypes.CDLL(nvinfer).getInferLibVersion())
    return ""


def linked_to(library: Path) -> list[str]:
    """List the libraries that an ELF file is linked to, from its dynamic section (System V ABI, chapters 4 and 5).

    Args:
        library: ELF file, 64 bits, little-endian.

    Returns:
        File names of the libraries. Empty if the file is missing or no such ELF file: the session then reports if the
        provider starts.
    """
    try:
        with library.open("rb") as file:
            header = file.read(64)
            if header[:6] != b"\x7fELF\2\1":
                return []
            (table,) = struct.unpack_from("<Q", header, 32)
            size, count = struct.unpack_from("<HH", header, 54)
            file.seek(table)
            # A segment: type, flags, offset in the file, address, address, bytes in the file.
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
    return [names[start:].split(b"\0", 1)[0].decode("ascii", "replace") for tag, start in entries if tag == DT_NEEDED]


def _provider(onnxruntime: Any, name: str) -> Path:
    """Library file of a provider on Linux."""
    return Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"


def _tensorrt_libraries(onnxruntime: Any) -> tuple[str | None, str | None]:
    """File names of TensorRT and CUDA's runtime that the provider is linked to."""
    needed = linked_to(_provider(onnxruntime, "tensorrt"))
    nvinfer, cudart = (
        next((file for file in needed if file.startswith(f"lib{name}.so.")), None) for name in ("nvinfer", "cudart")
    )
    return nvinfer, cudart


def _is_installed(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
