"""Compiling the kernels before they are called: all of them into the cache, or those of a photo in the background."""

from __future__ import annotations

import importlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numba.core.compiler_lock import global_compiler_lock

from esam_rt.errors import OutputError
from esam_rt.kernels import code_cache
from esam_rt.kernels.code_cache import REMEDY, remove_halves
from esam_rt.kernels.jit import KERNELS, Kernel, check_compiles


def _modules(*names: str) -> tuple[str, ...]:
    return tuple(f"esam_rt.kernels.{name}" for name in names)


# In the order in which a photo needs them.
OF_A_PHOTO = _modules(
    *("felzenszwalb", "bits", "iou", "nms", "mask_means", "fragments", "sampling", "dedup", "split"),
    *("similarity", "merge", "containment", "set_cover", "upsample"),
)
OF_METHOD = {
    "e-sam": OF_A_PHOTO,
    "amg": _modules("bits", "nms", "fragments", "upsample"),
    "sam-o": _modules("bits", "nms", "fragments", "upsample"),
    "superpixels": _modules("felzenszwalb"),
}
ALL = (*OF_A_PHOTO, *_modules("interpolated_precision"))

if hasattr(os, "register_at_fork"):
    # A process forked while a thread compiles would wait for that thread, which it does not have, for ever.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@dataclass(frozen=True)
class Compiled:
    """kernels: in the cache now; compiled: those of them that were not there before."""

    kernels: int
    compiled: int
    folder: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain dict for `--json`."""
        return asdict(self) | {"folder": str(self.folder), "seconds": round(self.seconds, 3)}


def entry_kernels(modules: Sequence[str]) -> list[Kernel]:
    """The kernels of these modules that Python calls; the others are compiled into them."""
    for name in modules:
        importlib.import_module(name)
    inner = {callee for kernel in KERNELS for callee in kernel.callees}
    return [kernel for name in modules for kernel in KERNELS if kernel.__module__ == name and kernel not in inner]


def compile_all() -> Compiled:
    """Compile what the cache lacks of all kernels and write it there. OutputError where that cannot be done."""
    start = time.perf_counter()
    kernels = entry_kernels(ALL)
    lacking = _lacking(kernels)
    with _another_process(ALL if lacking else ()):
        files = [_into_cache(kernel) for kernel in kernels]
    return Compiled(
        kernels=len(kernels),
        compiled=sum(kernel.cache.saved or kernel in lacking for kernel in kernels),
        folder=files[0].parent,
        seconds=time.perf_counter() - start,
    )


def _into_cache(kernel: Kernel) -> Path:
    kernel.compile()
    if kernel.cache.path is None:
        raise OutputError(f"{kernel.__module__}: cannot be cached, found no source file; expected esam-rt unpacked.")
    if kernel.cache.trouble:
        raise OutputError(f"{kernel.cache.trouble}. {REMEDY}")
    return kernel.cache.path


def begin(modules: Sequence[str] = OF_A_PHOTO, with_process: bool = False) -> threading.Thread:
    """A thread that readies the kernels of these modules one by one; the program may call them meanwhile, or end.

    with_process: where the cache lacks some, another process fills it from the other end, until the two meet.
    SettingsError where Numba is told to compile nothing.
    """
    check_compiles()
    thread = threading.Thread(target=_ready, args=(modules, with_process), name="esam-rt-kernels")
    thread.start()
    return thread


def _ready(modules: Sequence[str], with_process: bool) -> None:
    kernels = entry_kernels(modules)
    with _another_process(modules if with_process and _lacking(kernels) else ()):
        for kernel in kernels:
            if not threading.main_thread().is_alive():
                return
            kernel.compile()
            time.sleep(0.001)  # Numba's lock is not fair: now a thread that waits for another kernel gets it


def _lacking(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Those that are not in the cache."""
    with global_compiler_lock:
        return [kernel for kernel in kernels if not _is_there(kernel.cache.path)]


def _is_there(path: Path | None) -> bool:
    return path is not None and os.path.exists(path)  # noqa: PTH110 - never raises


@contextmanager
def _another_process(modules: Sequence[str]) -> Iterator[None]:
    """Numba compiles one kernel at a time in a process: meanwhile another one fills the cache too, from the last to the
    first. It ends with the block."""
    mark = secrets.token_hex(6)
    other = _started(modules, mark) if modules else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()  # and not terminate(): see Kernel.compile on exceptions of signal handlers
            other.wait()
            remove_halves(mark)


def _started(modules: Sequence[str], mark: str) -> subprocess.Popen[bytes] | None:
    """None where it would be of no use, or cannot be started. mark: for `fill`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2 or not sys.executable or hasattr(sys, "frozen"):
        return None
    path = [str(folder) for folder in sys.path]
    # It imports nothing from the current folder (-P).
    code = f"""import sys; sys.path[:] = {path}
from esam_rt.kernels import warmup; warmup.fill({tuple(modules)}, {mark!r})"""
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen([sys.executable, "-P", "-c", code], stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError:
        return None


def fill(modules: Sequence[str], mark: str) -> None:
    """Compile the kernels of these modules into the cache, the last one first, as long as it can be written.

    mark: begins the names of half-written files, for the one who may end this process to find them.
    """
    code_cache.mark = mark
    for kernel in reversed(entry_kernels(modules)):
        kernel.compile()
        if kernel.cache.trouble:
            return
