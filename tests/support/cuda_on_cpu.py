"""Compile the kernels of a .cu file with the C++ compiler, and run them on the host, one thread after the other."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from esam_rt.engines.cuda import compile_image_kernel

BEFORE = """
struct Three { unsigned x, y, z; };
static thread_local Three blockIdx, blockDim, threadIdx;
#define __global__
#define __device__
"""
AFTER = """
extern "C" void run(
    unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y,
    const u8 *a, long long b, u32 c, u32 d, u8 *e, u32 f, u32 g, u32 h, u32 i)
{
    blockDim = {block_x, block_y, 1};
    for (blockIdx.y = 0; blockIdx.y < grid_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < block_y; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < block_x; ++threadIdx.x)
                    place_photo(a, b, c, d, e, f, g, h, i);
}
"""


@functools.cache
def place_photo() -> Callable[..., None]:
    """place_photo of scale_image.cu, called with grid x, y, block x, y and its arguments.

    Skips the test if there is no C++ compiler.
    """
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler, which runs the kernel's source on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "photo.cpp", Path(folder) / "photo.so"
        source.write_text(BEFORE + compile_image_kernel.SOURCE.read_text() + AFTER)
        command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover"]
        subprocess.run([*command, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        run = ctypes.CDLL(str(library)).run
    run.restype = None
    run.argtypes = [*[ctypes.c_uint] * 4, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_uint, ctypes.c_uint]
    run.argtypes += [ctypes.c_void_p, *[ctypes.c_uint] * 4]
    return run
