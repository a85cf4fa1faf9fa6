"""Files in which the libraries keep what costs time: timings of builds, compiled kernels, engines of a provider.

Each lies in a folder of the library's version. Losing one costs time, never a run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from esam_rt.engines.onnxruntime.providers import import_onnxruntime
from esam_rt.engines.tensorrt.builder import load_library
from esam_rt.errors import MissingDependencyError, OutputError
from esam_rt.storage.atomic import output_error
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.checksummed_file import ChecksummedFile
from esam_rt.storage.hashing import remembered_sha256
from esam_rt.storage.keys import folder_bytes, text_key
from esam_rt.storage.onnx_files import check_graph_file


def timing_cache(backend: str, version: str, gpu: str) -> ChecksummedFile:
    """Name the file of timings that builds have measured.

    Args:
        backend: ``tensorrt``.
        version: Version of the library.
        gpu: Name of the GPU.

    Returns:
        The file. It may be missing.
    """
    return ChecksummedFile(_folder() / backend / version / f"{text_key(gpu)}.timing")


def runtime_cache(backend: str, version: str, gpu: str, plan_sha256: str) -> ChecksummedFile:
    """Name the file of kernels that were compiled for an engine.

    Args:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: Version of the library.
        gpu: Name of the GPU.
        plan_sha256: Hash of the engine, in hexadecimal.

    Returns:
        The file. It may be missing.
    """
    return ChecksummedFile(_folder() / backend / version / f"{text_key(gpu, plan_sha256)}.runtime")


def provider_cache(version: str, graph: Path, max_batch: int, made_for: Sequence[str]) -> Path:
    """Make the folder in which the TensorRT provider of ONNX Runtime keeps the engine of a graph, and timings.

    The provider reads the folder unchecked, so it has mode 0700.

    Args:
        version: Version of ONNX Runtime.
        graph: ONNX file.
        max_batch: Most prompts of one call.
        made_for: Version of TensorRT, name and capability of the GPU. The provider cannot read the files of others.

    Returns:
        The folder.

    Raises:
        OutputError: The folder cannot be made, or other users can read or write it.
        ModelError: ``graph`` is no whole ONNX model.
    """
    files = [graph, *sorted({tensor.file for tensor in check_graph_file(graph)})]
    key = text_key(str(max_batch), *made_for, *map(remembered_sha256, files))
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
            f"{folder}: expected a folder that nobody else can write to or read: TensorRT runs its files. "
            "Remove it. It is made again."
        )
    return folder


def prune(everything: bool, dry_run: bool) -> list[tuple[Path, int]]:
    """Remove the caches of libraries whose version is not installed.

    A library that is not installed at all keeps its caches: another environment may share them.

    Args:
        everything: Remove the others too.
        dry_run: Remove nothing.

    Returns:
        Each folder and its bytes.

    Raises:
        OutputError: A folder cannot be removed.
    """
    found = []
    for folder in sorted(_folder().glob("*/*")):
        if everything or not _is_of_use(folder):
            found.append((folder, folder_bytes(folder)))
            if not dry_run:
                try:
                    shutil.rmtree(folder)
                except OSError as e:
                    raise OutputError(f"{folder}: cannot be removed ({e.strerror}). Check its permissions.") from e
    return found


def _is_of_use(folder: Path) -> bool:
    """Check if ``LIBRARY/VERSION`` belongs to the installed version."""
    try:
        return folder.name == _version(folder.parent.name)
    except MissingDependencyError:
        return True
    except KeyError:  # no library that esam-rt knows
        return False


def _version(backend: str) -> str:
    """The installed version of a library."""
    if backend != "onnxruntime":
        return str(load_library(backend).__version__)
    return str(import_onnxruntime("cpu").__version__)


def _folder() -> Path:
    return cache_folder() / "libraries"
