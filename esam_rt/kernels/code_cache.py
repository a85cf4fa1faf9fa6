"""Caches the machine code of the kernels on disk.

Numba's own cache has three faults. It checks only the file of a kernel, so it misses changes in kernels that are
called. It keeps two files per kernel, so a process may read an old and a new one. A truncated file or a full disk ends
the process. This cache keeps one file per kernel, and its name is a hash of all that the code depends on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import numba
import numpy as np
from numba import types
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.keys import text_key
from esam_rt.storage.permissions import is_only_ours

CONFIG: Any = numba.config
OPTIONS = ("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE")  # settings of Numba that change the code
CHECKSUM_BYTES = 32
UNUSED_S = 30 * 24 * 3600  # code unused for so long is removed
temporary_prefix = "temporary-"  # names of temporary files begin with it
REMEDY = f"Set {'NUMBA_CACHE_DIR' if CONFIG.CACHE_DIR else 'ESAM_RT_CACHE'} to a folder of your own."


def code_folder() -> Path:
    """Return the folder of the code of all kernels: in ``NUMBA_CACHE_DIR`` if set, else in the cache of esam-rt."""
    return Path(CONFIG.CACHE_DIR) / "esam-rt" if CONFIG.CACHE_DIR else cache_folder() / "kernels"


def _sha256(file: Path) -> str | None:
    """Hash of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


# Read at import, not at compile time: an upgrade in between would save old code under the name of the new one.
SOURCES = [_sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))]


class CodeCache(NullCache):
    """The file of one kernel, in the form of a cache of Numba: a checksum, then the pickle of a compilation.

    The checksum is the SHA-256 of the key and of the pickle. Corrupt files, files of other kernels, and files that
    other users could have written are treated as missing, because they contain executable code. If the file cannot be
    written, the next process compiles again.

    Args:
        function: The function of the kernel.
        arguments: Types of its arguments.

    Attributes:
        loaded: True once the code was read from the file.
        saved: True once the file was written.
        trouble: Why the file cannot be used, as the beginning of a sentence; None if it can.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[types.Type, ...]) -> None:
        self.loaded = self.saved = False
        self.trouble: str | None = None
        self._name = f"{function.__module__}.{function.__qualname__}"
        source = _sha256(Path(function.__code__.co_filename))
        self._own_key = f"{self._name} {arguments} {source}"
        # No cache for functions without a file, nor for nested functions, which may differ from call to call.
        self._can_cache = bool(source and SOURCES) and "<locals>" not in self._name

    @cached_property
    def path(self) -> Path | None:
        """Path of the file; None for a function that cannot be cached."""
        if not self._can_cache:
            return None
        folder = code_folder() / f"{text_key(_machine())}-{text_key(_shared_key())}"
        return folder / f"{self._name}-{text_key(self._own_key)}.kernel"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Read the compilation from the file. Numba calls this.

        Args:
            signature: Not used: a kernel has one signature.
            target_context: Numba's target, which gets the code.

        Returns:
            The compilation; None if the file is missing or not to be trusted.
        """
        if self.path is None:
            return None
        target_context.refresh()
        data = self._read(self.path)
        if data is None:
            return None
        self.loaded = True
        with suppress(OSError):
            os.utime(self.path.parent)  # the folder's time is the time of its last use
        return CompileResult._rebuild(target_context, *pickle.loads(data))  # type: ignore[no-untyped-call]

    def is_usable(self) -> bool:
        """Tell if the file is there, whole, and to be trusted."""
        return self.path is not None and self._read(self.path) is not None

    def save_overload(self, signature: Any, compilation: Any) -> None:
        """Write the file atomically. Numba calls this.

        Args:
            signature: Not used: a kernel has one signature.
            compilation: The compilation to save.
        """
        if self.path is None:
            return
        data = dumps(compilation._reduce())  # type: ignore[no-untyped-call]
        try:
            is_first = not self.path.parent.exists()
            for folder in reversed(self.path.parents[:3]):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # not writable by others, whatever the umask
            if not _can_only_we_write(self.path.parents[:2]):
                self.trouble = _not_used(self.path.parent)
                return
            _write(self.path, self._checksum(data) + data)
            self.saved, self.trouble = True, None
            if is_first:
                _remove_unused()
        except OSError as e:
            self.trouble = f"Kernels cannot be cached in {self.path.parent} ({e.strerror})"

    def warn(self) -> None:
        """Log why the cache cannot be used, once for all kernels."""
        if self.trouble:
            _warn_once(f"{self.trouble}; every process compiles them again. {REMEDY}")

    def _read(self, path: Path) -> bytes | None:
        """The pickle; None if the file is missing, broken, or not to be trusted."""
        try:
            content = _only_ours(path)
        except OSError:
            return None
        if content is None:
            self.trouble = _not_used(path.parent)
            return None
        data = content[CHECKSUM_BYTES:]
        return data if content[:CHECKSUM_BYTES] == self._checksum(data) else None

    def _checksum(self, data: bytes) -> bytes:
        return hashlib.sha256(f"{_shared_key()} {self._own_key}".encode() + data).digest()


def _shared_key() -> str:
    """All that the code of every kernel depends on."""
    python = sys.implementation.cache_tag, getattr(sys, "abiflags", "")
    versions = (*python, numba.__version__, llvmlite.__version__, np.__version__)
    options = [getattr(CONFIG, name) for name in OPTIONS]
    cpu = cpu_target.target_context.codegen().magic_tuple()  # system, CPU and CPU features
    return repr((SOURCES, versions, options, cpu))


def _machine() -> str:
    """Names of system and CPU. CPU features are left out: their names change with the version of LLVM."""
    return repr(cpu_target.target_context.codegen().magic_tuple()[:2])


def _not_used(folder: Path) -> str:
    return f"Kernels in {folder} are ignored, because others could have written them"


def _can_only_we_write(folders: Iterable[Path]) -> bool:
    """True if these are folders, not links, that only this user and the administrator can write."""
    states = [folder.lstat() for folder in folders]
    return all(stat.S_ISDIR(state.st_mode) and is_only_ours(state) for state in states)


def _only_ours(path: Path) -> bytes | None:
    """Content of a kernel's file; None if others could have written it or linked it to another file of this user.

    Raises OSError for a symbolic link.
    """
    if not _can_only_we_write(path.parents[:2]):
        return None
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0))) as f:
        state = os.fstat(f.fileno())
        is_ours = stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and is_only_ours(state)
        return f.read() if is_ours else None


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically, writable by this user only. No fsync: the checksum reveals a file that a crash cut."""
    temporary = path.with_name(f".{temporary_prefix}{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as f:
            f.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary_files(prefix: str) -> None:
    """Remove temporary files that a killed process left behind.

    Args:
        prefix: ``temporary_prefix`` of that process.
    """
    with suppress(OSError):  # a temporary file that stays does no harm
        for file in code_folder().glob(f"*/.{prefix}*"):
            file.unlink()


def _remove_unused() -> None:
    """Remove code of other versions for this machine that was not used for ``UNUSED_S``.

    Read-only users do not update the time of last use, so their code may be removed as well and is compiled again.
    Code of other machines is kept.
    """
    with suppress(OSError):  # the next process tries again
        for folder in code_folder().glob(f"{text_key(_machine())}-*"):
            if folder.stat().st_mtime < time.time() - UNUSED_S:
                shutil.rmtree(folder, ignore_errors=True)


@cache
def _warn_once(message: str) -> None:
    logging.getLogger("esam_rt").warning(message)
