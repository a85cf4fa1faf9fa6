"""What libraries found out and may use again: timings while building, compiled kernels while running, engines.

Each lies in a file of the cache, in a folder of the library's version. Losing one costs time, never a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from esam_rt.engines.tensorrt.builder import load_library
from esam_rt.errors import MissingDependencyError, OutputError
from esam_rt.storage.atomic import output_error
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.checksummed_file import ChecksummedFile
from esam_rt.storage.hashing import remembered_sha256
from esam_rt.storage.onnx_files import check_graph_file

_log = logging.getLogger("esam_rt")


def timing_cache(backend: str, version: str, gpu: str) -> ChecksummedFile:
    """Timings that builds on a GPU, by its name, have measured."""
    return ChecksummedFile(_folder() / backend / version / f"{_key(gpu)}.timing")


def runtime_cache(backend: str, version: str, gpu: str, plan_sha256: str) -> ChecksummedFile:
    """Kernels of an engine that were compiled for a GPU, by its name."""
    return ChecksummedFile(_folder() / backend / version / f"{_key(gpu, plan_sha256)}.runtime")


def provider_cache(version: str, graph: Path, max_batch: int, made_for: Sequence[str]) -> Path:
    """The folder of what the TensorRT provider of an ONNX Runtime makes of an ONNX file, for batches up to a greatest:
    engines and timings. made_for: the version of TensorRT, and the GPU; of others the provider fails to read it. It
    reads what is there unchecked. So nobody but the user may write there: made with mode 0700;
    OutputError where it cannot be, or is another user's."""
    files = [graph, *sorted({tensor.file for tensor in check_graph_file(graph)})]
    key = _key(str(max_batch), *made_for, *map(remembered_sha256, files))
    folder = _folder() / "onnxruntime" / version / f"{graph.stem}-{key}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        state = folder.lstat()
    except OSError as e:
        raise output_error(folder, e) from e
    is_own = os.name != "posix" or (state.st_uid == os.getuid() and not state.st_mode & 0o077)
    if not stat.S_ISDIR(state.st_mode) or not is_own:
        raise OutputError(
            f"{folder}: expected a folder that nobody else can write to or read; TensorRT runs what lies there. Remove "
            "it, it is made again."
        )
    return folder


def prune(everything: bool, dry_run: bool) -> list[tuple[Path, int]]:
    """Remove what libraries of other versions left, or all; folders, and their bytes. OutputError where they cannot be
    removed."""
    found = []
    for folder in sorted(_folder().glob("*/*")):
        try:
            is_of_use = folder.name == _version(folder.parent.name)
        except MissingDependencyError:
            is_of_use = True  # to another environment, which shares the cache
        except KeyError:
            is_of_use = False
        if everything or not is_of_use:
            found.append((folder, sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())))
            if not dry_run:
                try:
                    shutil.rmtree(folder)
                except OSError as e:
                    raise OutputError(f"{folder}: cannot be removed ({e.strerror}); check its permissions.") from e
    return found


def _version(backend: str) -> str:
    """The installed version of a library. MissingDependencyError without it, KeyError for a name that is none."""
    if backend != "onnxruntime":
        return str(load_library(backend).__version__)
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingDependencyError(f"ONNX Runtime is not installed ({e}).") from e
    return str(onnxruntime.__version__)


def _folder() -> Path:
    return cache_folder() / "libraries"


def _key(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
