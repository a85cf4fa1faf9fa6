"""Machine code of the kernels on disk.

Numba's own cache looks at the file of a kernel alone, so that a change to what it calls goes unnoticed; it keeps two
files a kernel, of which a process may see one old and one new; and a file cut short, or a full disk, ends the process.
Here a kernel is one file, under a name that stands for all that its code depends on.
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
from esam_rt.storage.permissions import is_only_ours

CONFIG: Any = numba.config
OPTIONS = ("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE")  # Numba's settings that change the code
SEAL_BYTES = 32
UNUSED_S = 30 * 24 * 3600  # code that nobody used for so long is removed
mark = "half-"  # begins the names of files that are being written
REMEDY = f"Set {'NUMBA_CACHE_DIR' if CONFIG.CACHE_DIR else 'ESAM_RT_CACHE'} to a folder of your own."


def code_folder() -> Path:
    """Where the code of all kernels is: under `NUMBA_CACHE_DIR` where that is set, else in the cache of esam-rt."""
    return Path(CONFIG.CACHE_DIR) / "esam-rt" if CONFIG.CACHE_DIR else cache_folder() / "kernels"


def _sha256(file: Path) -> str | None:
    """None for a file that cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


# Read now and not when a kernel is compiled: an upgrade in between would file old code under the name of the new.
SOURCES = [_sha256(file) for file in sorted(Path(__file__).parent.glob("*.py"))]


class CodeCache(NullCache):
    """The file of one kernel, as a dispatcher of Numba asks for it: a seal, then what Numba pickles of a compilation.

    The seal is the SHA-256 of the key and of the rest: a file that is broken or of another kernel is as none. So is one
    that others could have written, or put there, since code is read from it. What cannot be written is compiled again
    by the next process. loaded, saved: what was done; trouble: a sentence on why the file is of no use.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[types.Type, ...]) -> None:
        self.loaded = self.saved = False
        self.trouble: str | None = None
        self._name = f"{function.__module__}.{function.__qualname__}"
        source = _sha256(Path(function.__code__.co_filename))
        self._own_key = f"{self._name} {arguments} {source}"
        # Not of a function without a file, nor of one within another, which may differ from call to call.
        self._can_cache = bool(source and SOURCES) and "<locals>" not in self._name

    @cached_property
    def path(self) -> Path | None:
        """Of the file; None where there can be none."""
        if not self._can_cache:
            return None
        folder = code_folder() / f"{_short(_machine())}-{_short(_shared_key())}"
        return folder / f"{self._name}-{_short(self._own_key)}.kernel"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compilation in the file, ready to be called, or None."""
        if self.path is None:
            return None
        target_context.refresh()
        try:
            content = _only_ours(self.path)
        except OSError:
            return None
        if content is None:
            self.trouble = _not_used(self.path.parent)
            return None
        data = content[SEAL_BYTES:]
        if content[:SEAL_BYTES] == self._seal(data):
            self.loaded = True
            with suppress(OSError):
                os.utime(self.path.parent)  # its time is that of its last use
            return CompileResult._rebuild(target_context, *pickle.loads(data))  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, signature: Any, compilation: Any) -> None:
        """Write the file, whole or not at all."""
        if self.path is None:
            return
        data = dumps(compilation._reduce())  # type: ignore[no-untyped-call]
        try:
            is_first = not self.path.parent.exists()
            for folder in reversed(self.path.parents[:3]):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # under any umask
            if not _can_only_we_write(self.path.parents[:2]):
                self.trouble = _not_used(self.path.parent)
                return
            _write(self.path, self._seal(data) + data)
            self.saved, self.trouble = True, None
            if is_first:
                _remove_unused()
        except OSError as e:
            self.trouble = f"Kernels cannot be cached in {self.path.parent} ({e.strerror})"

    def warn(self) -> None:
        """Say the trouble, if there is one, to those who wait for it: once for all kernels."""
        if self.trouble:
            _warn_once(f"{self.trouble}; every process compiles them anew. {REMEDY}")

    def _seal(self, data: bytes) -> bytes:
        return hashlib.sha256(f"{_shared_key()} {self._own_key}".encode() + data).digest()


def _shared_key() -> str:
    """What the code of every kernel depends on."""
    python = sys.implementation.cache_tag, getattr(sys, "abiflags", "")
    versions = (*python, numba.__version__, llvmlite.__version__, np.__version__)
    options = [getattr(CONFIG, name) for name in OPTIONS]
    cpu = cpu_target.target_context.codegen().magic_tuple()  # and its features, and the system
    return repr((SOURCES, versions, options, cpu))


def _machine() -> str:
    """The system and the CPU by name; other versions of LLVM name other features of it."""
    return repr(cpu_target.target_context.codegen().magic_tuple()[:2])


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _not_used(folder: Path) -> str:
    return f"Kernels in {folder} are not used, since others could have put them there"


def _can_only_we_write(folders: Iterable[Path]) -> bool:
    """Whether these are folders, and no links to some, that only this user and the administrator can write."""
    states = [folder.lstat() for folder in folders]
    return all(stat.S_ISDIR(state.st_mode) and is_only_ours(state) for state in states)


def _only_ours(path: Path) -> bytes | None:
    """The content of a kernel's file; None where others could have written it, or have put there a link to another file
    of this user. OSError for a link."""
    if not _can_only_we_write(path.parents[:2]):
        return None
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0))) as f:
        state = os.fstat(f.fileno())
        is_ours = stat.S_ISREG(state.st_mode) and state.st_nlink == 1 and is_only_ours(state)
        return f.read() if is_ours else None


def _write(path: Path, content: bytes) -> None:
    """As `files.write_bytes`, without fsync: the seal tells what a crash cut short. Others may not write it."""
    temporary = path.with_name(f".{mark}{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as f:
            f.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_halves(mark: str) -> None:
    """Remove what a process with this mark left half-written when it was ended."""
    with suppress(OSError):  # one that stays is as one that was never found
        for half in code_folder().glob(f"*/.{mark}*"):
            half.unlink()


def _remove_unused() -> None:
    """Remove code of other versions for this machine; whoever wants it meanwhile compiles it anew. Those who may only
    read it leave no trace of using it and lose it too; but that of other machines stays."""
    with suppress(OSError):  # the next time will do
        for folder in code_folder().glob(f"{_short(_machine())}-*"):
            if folder.stat().st_mtime < time.time() - UNUSED_S:
                shutil.rmtree(folder, ignore_errors=True)


@cache
def _warn_once(message: str) -> None:
    logging.getLogger("esam_rt").warning(message)
