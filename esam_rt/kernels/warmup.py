"""Compiles kernels before they are called: all into the cache, or those of one method in the background."""

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
from esam_rt.kernels.code_cache import REMEDY, remove_temporary_files
from esam_rt.kernels.jit import KERNELS, Kernel, check_compiles
from esam_rt.usable_cpus import usable_cpus


def _modules(*names: str) -> tuple[str, ...]:
    return tuple(f"esam_rt.kernels.{name}" for name in names)


# In the order in which a photo needs them.
PHOTO_MODULES = _modules(
    *("felzenszwalb", "bits", "iou", "nms", "mask_means", "fragments", "sampling", "dedup", "split"),
    *("similarity", "merge", "containment", "set_cover", "guided_fit", "guided_paint", "pieces"),
)
METHOD_MODULES = {
    "e-sam": PHOTO_MODULES,
    "amg": _modules("bits", "nms", "fragments", "guided_fit", "guided_paint", "pieces"),
    "sam-o": _modules("bits", "nms", "fragments", "guided_fit", "guided_paint", "pieces"),
    "superpixels": _modules("felzenszwalb"),
}
ALL_MODULES = (*PHOTO_MODULES, *_modules("upsample", "interpolated_precision", "label_pairs", "pooling"))

if hasattr(os, "register_at_fork"):
    # A process forked while a thread compiles would wait forever for a thread that it does not have.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )


@dataclass(frozen=True)
class Compiled:
    """Result of ``compile_all``.

    Attributes:
        kernels: Number of kernels in the cache.
        compiled: Number of kernels that were not in the cache before.
        folder: Folder of the code.
        seconds: Duration.
    """

    kernels: int
    compiled: int
    folder: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for ``--json``."""
        return asdict(self) | {"folder": str(self.folder), "seconds": round(self.seconds, 3)}


def entry_kernels(modules: Sequence[str]) -> list[Kernel]:
    """Return the kernels of modules that Python calls. The other kernels are compiled into these.

    Args:
        modules: Full names of modules; they are imported.
    """
    for name in modules:
        importlib.import_module(name)
    inner = {callee for kernel in KERNELS for callee in kernel.callees}
    return [kernel for name in modules for kernel in KERNELS if kernel.__module__ == name and kernel not in inner]


def usable_kernels() -> tuple[int, int]:
    """Count the kernels that a new process reads from the cache. Nothing is compiled or written.

    Returns:
        Their number, and the number of all kernels.
    """
    kernels = entry_kernels(ALL_MODULES)
    return sum(kernel.cache.is_usable() for kernel in kernels), len(kernels)


def compile_all() -> Compiled:
    """Compile all kernels that the cache does not have.

    Raises:
        OutputError: The cache cannot be written.
    """
    start = time.perf_counter()
    kernels = entry_kernels(ALL_MODULES)
    missing = _missing(kernels)
    with _second_process(ALL_MODULES if missing else ()):
        files = [_into_cache(kernel) for kernel in kernels]
    return Compiled(
        kernels=len(kernels),
        compiled=sum(kernel.cache.saved or kernel in missing for kernel in kernels),
        folder=files[0].parent,
        seconds=time.perf_counter() - start,
    )


def _into_cache(kernel: Kernel) -> Path:
    kernel.compile()
    if kernel.cache.path is None:
        raise OutputError(f"{kernel.__module__}: cannot be cached, its source is missing. Install esam-rt unpacked.")
    if kernel.cache.trouble:
        raise OutputError(f"{kernel.cache.trouble}. {REMEDY}")
    return kernel.cache.path


def start_warmup(modules: Sequence[str] = PHOTO_MODULES, with_process: bool = False) -> threading.Thread:
    """Start a thread that compiles kernels one by one. The program may call kernels meanwhile, or end.

    Args:
        modules: Full names of modules, in the order in which they are needed.
        with_process: If the cache does not have all kernels, a second process compiles them in reverse order. On two
            cores this made the first run take 3.9 s instead of 6.7 s.

    Returns:
        The thread, started.

    Raises:
        SettingsError: ``NUMBA_DISABLE_JIT`` is set.
    """
    check_compiles()
    thread = threading.Thread(target=_compile_each, args=(modules, with_process), name="esam-rt-kernels")
    thread.start()
    return thread


def _compile_each(modules: Sequence[str], with_process: bool) -> None:
    kernels = entry_kernels(modules)
    with _second_process(modules if with_process and _missing(kernels) else ()):
        for kernel in kernels:
            if not threading.main_thread().is_alive():
                return
            kernel.compile()
            time.sleep(0.001)  # lets a thread that waits for another kernel get Numba's lock, which is not fair


def _missing(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Kernels that the cache does not have."""
    with global_compiler_lock:
        return [kernel for kernel in kernels if not _exists(kernel.cache.path)]


def _exists(path: Path | None) -> bool:
    return path is not None and os.path.exists(path)  # noqa: PTH110 - never raises


@contextmanager
def _second_process(modules: Sequence[str]) -> Iterator[None]:
    """Compile in a second process as well, in reverse order: Numba compiles one kernel at a time in a process.

    The process is killed on exit from the context.
    """
    prefix = secrets.token_hex(6)
    other = _started(modules, prefix) if modules else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()  # not terminate(): Kernel.compile says how exceptions of signal handlers are lost
            other.wait()
            remove_temporary_files(prefix)


def _started(modules: Sequence[str], prefix: str) -> subprocess.Popen[bytes] | None:
    """A process that runs ``fill_cache``; None if it cannot start or there is only one CPU."""
    if usable_cpus() < 2 or not sys.executable or hasattr(sys, "frozen"):
        return None
    path = [str(folder) for folder in sys.path]
    # -P: the process imports nothing from the current folder.
    code = f"""import sys; sys.path[:] = {path}
from esam_rt.kernels import warmup; warmup.fill_cache({tuple(modules)}, {prefix!r})"""
    nothing = subprocess.DEVNULL
    try:
        return subprocess.Popen([sys.executable, "-P", "-c", code], stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError:
        return None


def fill_cache(modules: Sequence[str], prefix: str) -> None:
    """Compile kernels into the cache, the last one first. Stop if the cache cannot be written.

    Args:
        modules: Full names of modules.
        prefix: Names of temporary files begin with it. Whoever kills this process removes them by it.
    """
    code_cache.temporary_prefix = prefix
    for kernel in reversed(entry_kernels(modules)):
        kernel.compile()
        if kernel.cache.trouble:
            return
