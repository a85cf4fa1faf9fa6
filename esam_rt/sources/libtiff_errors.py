"""Errors of Pillow's libtiff. It prints them on stderr, and returns half a picture for some as if it were whole.

Pillow has no access to them. Its wheels carry libtiff as a shared library, so that a handler can be set. If Pillow was
built in another way, libtiff prints as before.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from pathlib import Path

import PIL

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_seen = threading.local()


def forget_errors() -> None:
    """Forget the errors of this thread, and keep them off stderr from now on."""
    _install()
    _seen.where = []


def errors() -> list[str]:
    """Return where libtiff met errors on this thread, for example ``Fax4Decode``."""
    return list(getattr(_seen, "where", []))


def _remember(where: bytes | None, format_: bytes | None, values: int | None) -> None:
    if not hasattr(_seen, "where"):
        _seen.where = []
    _seen.where.append((where or b"libtiff").decode(errors="replace"))


def _ignore(where: bytes | None, format_: bytes | None, values: int | None) -> None:
    """Drop a warning: about unknown tags, for example."""


_HANDLERS = {"TIFFSetErrorHandler": _HANDLER(_remember), "TIFFSetWarningHandler": _HANDLER(_ignore)}


@functools.cache
def _install() -> None:
    for path in (Path(PIL.__file__).parent.parent / "pillow.libs").glob("libtiff-*.so*"):
        library = ctypes.CDLL(str(path))
        for name, handler in _HANDLERS.items():
            function = getattr(library, name)
            function.restype = ctypes.c_void_p
            function(handler)
