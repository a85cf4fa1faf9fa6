"""Compile ``scale_image.cu`` to ``scale_image.ptx``. The driver compiles the PTX for its GPU: users need no compiler.

    python -m esam_rt.engines.cuda.compile_image_kernel PATH_OF_LIBNVRTC

Use an old NVRTC, so that old drivers accept the file. The one of CUDA 12.0 is in the wheel nvidia-cuda-nvrtc-cu12
12.0.76.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("scale_image.cu")
PTX = SOURCE.with_suffix(".ptx")
OLDEST_GPU = "compute_75"


def header() -> str:
    """Make the first line of ``scale_image.ptx``.

    Returns:
        A comment with the checksum of the source.
    """
    return f"// SHA-256 of {SOURCE.name}: {hashlib.sha256(SOURCE.read_bytes()).hexdigest()}\n"


def ptx_of(source: bytes, library: Path) -> str:
    """Compile CUDA source with NVIDIA's NVRTC.

    Args:
        source: Text of the source.
        library: File of libnvrtc.

    Returns:
        The PTX.

    Raises:
        RuntimeError: The compiler failed. The message has its log.
    """
    nvrtc = ctypes.CDLL(str(library))
    program, size = ctypes.c_void_p(), ctypes.c_size_t()

    def check(status: int) -> None:
        if status != 0:
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            words = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, words)
            raise RuntimeError(f"NVRTC failed with status {status}: {words.value.decode()}")

    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, SOURCE.name.encode(), 0, None, None))
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={OLDEST_GPU}".encode())
    check(nvrtc.nvrtcCompileProgram(program, len(options), options))
    check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)))
    ptx = ctypes.create_string_buffer(size.value)
    check(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx.value.decode()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PTX.write_text(header() + ptx_of(SOURCE.read_bytes(), Path(sys.argv[1])))
    print(f"{PTX}: {PTX.stat().st_size} bytes")
