"""The one way in which the kernels are compiled."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from numba import njit, types
from numba.core.compiler_lock import global_compiler_lock

from esam_rt.errors import SettingsError
from esam_rt.kernels.code_cache import CONFIG, CodeCache

F = TypeVar("F", bound=Callable[..., Any])


def array(dtype: types.Type, ndim: int) -> types.Array:
    """C-contiguous and only read: takes read-only and writable arrays with one compilation."""
    return types.Array(dtype, ndim, "C", readonly=True)


BITS = array(types.uint64, 3)
PLANE = array(types.uint64, 2)
BOXES = array(types.int16, 2)
AREAS = array(types.int32, 1)
INDEX = array(types.int64, 1)
LABELS = array(types.int32, 2)
OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}


class Kernel:
    """A function that is compiled at its first call, once a machine, for exactly one signature.

    Into a kernel that calls it it is compiled once more, without what Python would call it through: of a small kernel
    that is more than half of the time.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[types.Type, ...]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.arguments = function, arguments
        self.cache = CodeCache(function, arguments)
        self._called: Any = None
        self._compiled: Any = None
        self._inner: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Compiles it, or waits for the thread that does. TypeError for arguments of other types."""
        if self._called is None:
            self._called = self.compile()
            self.cache.warn()
        return self._called(*arguments)

    def compile(self) -> Any:
        """Make it ready to be called, from the cache where that has it; what is to be called. SettingsError where Numba
        is told to compile nothing."""
        check_compiles()
        if self._compiled is None and threading.current_thread() is threading.main_thread():
            # Ctrl-C while LLVM works is raised in a destructor of llvmlite at times (3 of 50), where it is lost: here
            # it is raised while this thread waits for another.
            with ThreadPoolExecutor(1, "esam-rt-kernels") as elsewhere:
                try:
                    compiled = elsewhere.submit(self._compile)
                except RuntimeError:  # the interpreter ends and starts no threads: a call at its exit
                    return self._compile()
                return compiled.result()
        return self._compile()

    def _compile(self) -> Any:
        with global_compiler_lock:
            if self._compiled is None:
                self._compiled = self._dispatcher(self.cache)
            return self._compiled

    @property
    def callees(self) -> set[Kernel]:
        """The kernels that it calls."""
        names, there = self.function.__code__.co_names, self.function.__globals__
        return {there[name] for name in names if isinstance(there.get(name), Kernel)}

    @property
    def _numba_type_(self) -> Any:
        """What Numba asks of a global of the kernel that it compiles; it holds its lock meanwhile."""
        if self._inner is None:
            self._inner = self._dispatcher(None, no_cpython_wrapper=True)
        return self._inner._numba_type_

    def _dispatcher(self, cache: CodeCache | None, **options: Any) -> Any:
        dispatcher: Any = njit(**OPTIONS, **options)(self.function)
        if cache is not None:
            dispatcher._cache = cache
        collects = gc.isenabled()
        gc.disable()  # a tenth of the time: Numba makes many objects and drops few
        try:
            dispatcher.compile(self.arguments)
        finally:
            if collects:
                gc.enable()
        dispatcher.disable_compile()
        return dispatcher


def check_compiles() -> None:
    """SettingsError where Numba is told to compile nothing: the kernels run as machine code only."""
    if CONFIG.DISABLE_JIT:
        raise SettingsError("NUMBA_DISABLE_JIT is set, but esam-rt compiles its kernels with Numba's JIT; unset it.")


KERNELS: list[Kernel] = []  # of the modules that were imported


def kernel(*arguments: types.Type) -> Callable[[F], F]:
    """Compile for exactly these argument types, at the first call; the GIL is released while the kernel runs.

    No kernel uses parallel=True: Numba's default threading layer aborts the process when two Python threads enter
    parallel regions at once, and with box tests the serial loops are short. Callers use threads instead.
    A kernel uses constants and kernels of its own file and of this folder: in others the cache would see no change.
    """

    def make(function: F) -> F:
        KERNELS.append(Kernel(function, arguments))
        return cast(F, KERNELS[-1])

    return make
