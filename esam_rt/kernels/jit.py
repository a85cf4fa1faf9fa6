"""Compiles the kernels with Numba: one signature each, cached on disk, safe to call from several threads.

How to add a kernel:

1. Write a file in this folder. A kernel may use NumPy, constants of its own file and other kernels of this folder. The
   cache would not notice a change in any other file.
2. Decorate the loop with ``@kernel(...)`` and the exact types of its arguments, such as ``@kernel(BITS, BOXES)``. Use
   ``array`` for arrays that the kernel only reads, and ``types.int32[::1]`` for arrays that it writes.
3. Write a public function around it: it allocates the results and calls ``np.ascontiguousarray`` if callers may
   pass other layouts. The docstring names shapes and dtypes.
4. Name the file in ``warmup.PHOTO_MODULES`` or ``ALL_MODULES``, and in ``METHOD_MODULES`` for methods that use it.
5. Write an oracle in plain NumPy in ``tests/kernels/oracles.py``, a test against it, and a call in
   ``tests/kernels/test_threads.py``.

A kernel takes bits, boxes and areas as separate arrays. In a NamedTuple, Numba 0.68 refuses writable arrays for a
signature with read-only ones.
"""

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
    """Return the type of a C-contiguous array that is only read. Callers may pass read-only and writable arrays.

    Args:
        dtype: Type of an item.
        ndim: Number of dimensions.
    """
    return types.Array(dtype, ndim, "C", readonly=True)


BITS = array(types.uint64, 3)
PLANE = array(types.uint64, 2)
BOXES = array(types.int16, 2)
AREAS = array(types.int32, 1)
INDEX = array(types.int64, 1)
LABELS = array(types.int32, 2)
OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}


class Kernel:
    """A function that is compiled at its first call, once per machine, for exactly one signature.

    A kernel that is called by another kernel is compiled again into the caller, without a wrapper for Python. The
    wrapper takes more than half of a small kernel's compile time.

    Args:
        function: The Python function.
        arguments: Types of its arguments.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[types.Type, ...]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.arguments = function, arguments
        self.cache = CodeCache(function, arguments)
        self._called: Any = None
        self._compiled: Any = None
        self._inner: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the machine code. The first call compiles it, or waits for the thread that does.

        Raises:
            TypeError: An argument has another type.
        """
        if self._called is None:
            self._called = self.compile()
            self.cache.warn()
        return self._called(*arguments)

    def compile(self) -> Any:
        """Load the machine code from the cache, or compile it.

        Returns:
            The compiled function.

        Raises:
            SettingsError: ``NUMBA_DISABLE_JIT`` is set.
        """
        check_compiles()
        if self._compiled is None and threading.current_thread() is threading.main_thread():
            # While LLVM works, Ctrl-C is sometimes (3 of 50) raised in a destructor of llvmlite and lost. Here it is
            # raised while the main thread waits for another thread.
            with ThreadPoolExecutor(1, "esam-rt-kernels") as other_thread:
                try:
                    compiled = other_thread.submit(self._compile)
                except RuntimeError:  # the interpreter is exiting and starts no threads
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
        """The kernels that this kernel calls."""
        names, namespace = self.function.__code__.co_names, self.function.__globals__
        return {namespace[name] for name in names if isinstance(namespace.get(name), Kernel)}

    @property
    def _numba_type_(self) -> Any:
        """The type that Numba asks for when it compiles a caller of this kernel. Numba holds its lock meanwhile."""
        if self._inner is None:
            self._inner = self._dispatcher(None, no_cpython_wrapper=True)
        return self._inner._numba_type_

    def _dispatcher(self, cache: CodeCache | None, **options: Any) -> Any:
        dispatcher: Any = njit(**OPTIONS, **options)(self.function)
        if cache is not None:
            dispatcher._cache = cache
        collects = gc.isenabled()
        gc.disable()  # saves a tenth of the time: Numba makes many objects and drops few
        try:
            dispatcher.compile(self.arguments)
        finally:
            if collects:
                gc.enable()
        dispatcher.disable_compile()
        return dispatcher


def check_compiles() -> None:
    """Check that Numba may compile.

    Raises:
        SettingsError: ``NUMBA_DISABLE_JIT`` is set. The kernels run only as machine code.
    """
    if CONFIG.DISABLE_JIT:
        raise SettingsError("NUMBA_DISABLE_JIT is set, but the kernels need Numba's compiler. Unset it.")


KERNELS: list[Kernel] = []  # kernels of all imported modules


def kernel(*arguments: types.Type) -> Callable[[F], F]:
    """Decorate a function that is compiled at its first call. The GIL is released while the kernel runs.

    No kernel uses ``parallel=True``: Numba's default threading layer aborts the process when two Python threads enter
    parallel regions at once. Callers use threads instead.

    Args:
        *arguments: Exact types of the arguments.
    """

    def make(function: F) -> F:
        KERNELS.append(Kernel(function, arguments))
        return cast(F, KERNELS[-1])

    return make
