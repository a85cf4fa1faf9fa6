"""The one way in which the kernels are compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit, types

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


def kernel(*arguments: types.Type) -> Callable[[F], F]:
    """Compile for exactly these argument types, once a machine; the GIL is released while the kernel runs.

    No kernel uses parallel=True: Numba's default threading layer aborts the process when two Python threads enter
    parallel regions at once, and with box tests the serial loops are short. Callers use threads instead.
    Numba's cache looks at the file of the kernel alone: after a change to one that other modules call, delete
    `__pycache__`.
    """

    def compile_function(function: F) -> F:
        compiled: Any
        try:
            compiled = njit(arguments, nogil=True, cache=True)(function)
        except RuntimeError as error:
            # Neither the package nor the user's home can be written, as in many containers.
            if "no locator available" not in str(error):
                raise
            logging.getLogger("esam_rt").warning(
                "No folder to cache %s in: compiled anew in every process. Set NUMBA_CACHE_DIR.", function.__name__
            )
            compiled = njit(arguments, nogil=True)(function)
        return cast(F, compiled)

    return compile_function
