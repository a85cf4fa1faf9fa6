"""Finds what esam-rt can use on this machine, and the command that installs what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from esam_rt._version import __version__
from esam_rt.engines.onnxruntime.cuda_libraries import missing_cuda, missing_tensorrt
from esam_rt.engines.onnxruntime.providers import PROVIDERS
from esam_rt.engines.tensorrt.builder import INSTEAD_OF_RTX, NOT_RTX
from esam_rt.errors import ModelError
from esam_rt.sam.models import MODELS, ModelSpec
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.hashing import sha256_of

LIBRARIES = {
    "numpy": "numpy",
    "numba": "numba",
    "skimage": "scikit-image",
    "cv2": "opencv-python-headless",
    "pycocotools.mask": "pycocotools",
    "onnx": "onnx",
    "onnx_ir": "onnx-ir",
    "ml_dtypes": "ml-dtypes",
    "requests": "requests",
    "safetensors": "safetensors",
}
TENSORRT = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}  # import name -> extra
QUERY = ("name", "memory.total", "driver_version", "compute_cap")  # fields of nvidia-smi


class State(StrEnum):
    """Meaning of a finding: in order, optional and absent, or it stops every run."""

    OK = "ok"
    ABSENT = "absent"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: Its meaning.
        found: What was found, in words.
        remedy: A command or a sentence; empty if there is nothing to do.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class GpuCard:
    """One line of ``nvidia-smi``.

    Attributes:
        line: The line: name, memory, driver, compute capability.
        capability: For example ``sm_86``; empty if the driver does not tell.
    """

    line: str
    capability: str


@dataclass(frozen=True)
class Diagnosis:
    """The whole report.

    Attributes:
        findings: All lines.
        backends: Backends that can run here.
    """

    findings: tuple[Finding, ...]
    backends: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if esam-rt can run on a backend, else that of ``ModelError``."""
        return 0 if self.backends else ModelError.exit_code

    def to_json(self) -> dict[str, Any]:
        """Convert for ``--json``.

        Returns:
            A plain dict.
        """
        return {"backends": list(self.backends), "findings": [asdict(f) for f in self.findings]}


def diagnose() -> Diagnosis:
    """Look at libraries, models, GPUs and the cache. Nothing is changed, downloaded or written.

    Returns:
        The report.
    """
    cards = list_gpus()
    gpu = gpu_finding(cards)
    has_gpu = gpu.state is State.OK
    runtime = onnxruntime_finding(has_gpu)
    needed = [*library_findings(), *model_findings()]
    findings = [*version_findings(), *needed, runtime, *provider_findings()]
    findings += tensorrt_findings(() if isinstance(cards, Finding) else cards)
    findings += [array_finding(), gpu, cache_finding()]
    backends = [runtime]
    if has_gpu and runtime.state is State.OK:  # the self-test of engines needs ONNX Runtime
        backends += [f for f in findings if f.name in TENSORRT.values()]
    able = all(f.state is State.OK for f in needed)
    return Diagnosis(tuple(findings), tuple(f.name for f in backends if able and f.state is State.OK))


def version_findings() -> Iterator[Finding]:
    """Look at Python and esam-rt.

    Yields:
        One finding for each.
    """
    yield Finding("python", State.OK, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("esam-rt", State.OK, __version__)


def library_findings() -> Iterator[Finding]:
    """Import the libraries that every run needs: an installed one may still fail to load.

    Yields:
        One finding for each.
    """
    for name, package in LIBRARIES.items():
        if name == "requests" and _is_installed(package):  # its import opens a socket, to find out about IPv6
            yield Finding(package, State.OK, metadata.version(package))
            continue
        module = _import(name)
        if isinstance(module, str):
            yield Finding(package, State.BAD, module, f"pip install {package}")
        else:
            yield Finding(package, State.OK, getattr(module, "__version__", "installed"))


def onnxruntime_finding(has_gpu: bool) -> Finding:
    """Look at ONNX Runtime. Only one of the two wheels may be installed: they overwrite each other's files.

    Args:
        has_gpu: If true, the wheel with CUDA is proposed.

    Returns:
        Version, providers, and if it reports its use to Microsoft.
    """
    extra = "gpu" if has_gpu else "cpu"
    wheels = [w for w in ("onnxruntime", "onnxruntime-gpu") if _is_installed(w)]
    again = f"pip uninstall -y {' '.join(wheels)} && pip install 'esam-rt[{extra}]'"
    module = _import("onnxruntime")
    if isinstance(module, str):
        return Finding("onnxruntime", State.BAD, module, again if wheels else f"pip install 'esam-rt[{extra}]'")
    providers = [p.removesuffix("ExecutionProvider") for p in module.get_available_providers()]
    remedy = again if len(wheels) > 1 or (has_gpu and "CUDA" not in providers) else ""
    telemetry = "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "on"
    found = f"{module.__version__}, providers {', '.join(providers)}, telemetry {telemetry}"
    return Finding("onnxruntime", State.OK, found, remedy)


def provider_findings() -> Iterator[Finding]:
    """Look for the CUDA, cuDNN and TensorRT that the providers of ONNX Runtime need.

    Yields:
        One finding for each GPU provider that this ONNX Runtime has.
    """
    module = _import("onnxruntime")
    if isinstance(module, str):
        return
    for device, missing_of in (("cuda", missing_cuda), ("tensorrt", missing_tensorrt)):
        if PROVIDERS[device] in module.get_available_providers():
            missing = missing_of(module)
            found, remedy = missing or ("its libraries load", "")
            yield Finding(f"onnxruntime on device {device}", State.ABSENT if missing else State.OK, found, remedy)


def tensorrt_findings(cards: Sequence[GpuCard]) -> Iterator[Finding]:
    """Look at TensorRT and TensorRT-RTX. Both are optional.

    Args:
        cards: GPUs of this machine. TensorRT-RTX does not run on some.

    Yields:
        One finding for each.
    """
    unsupported = sorted({card.capability for card in cards} & set(NOT_RTX))
    for name, extra in TENSORRT.items():
        module, cuda = _import(name), _import("cuda.bindings.runtime")
        if extra == "tensorrt-rtx" and unsupported:
            yield Finding(extra, State.ABSENT, f"does not run on {', '.join(unsupported)}", INSTEAD_OF_RTX)
        elif isinstance(module, str):
            yield Finding(extra, State.ABSENT, module, f"pip install 'esam-rt[{extra}]'")
        elif isinstance(cuda, str):
            found = f"{module.__version__}, builds engines; to run them cuda-python is {cuda}"
            yield Finding(extra, State.ABSENT, found, f"pip install 'esam-rt[{extra}]'")
        else:
            yield Finding(extra, State.OK, module.__version__)


def array_finding() -> Finding:
    """Look at cuda-core, which reads arrays of other libraries on a GPU. It is optional.

    Returns:
        Its version.
    """
    module = _import("cuda.core")
    if isinstance(module, str):
        return Finding("cuda-core", State.ABSENT, f"{module}; reads photos on a GPU by DLPack", "pip install cuda-core")
    return Finding("cuda-core", State.OK, module.__version__)


def model_findings() -> Iterator[Finding]:
    """Look at the models that ship with the package.

    Yields:
        Size and start of the SHA-256 of each.
    """
    for row in MODELS.values():
        if row.checkpoint is not None:
            yield _checkpoint_finding(row, row.checkpoint)


def _checkpoint_finding(row: ModelSpec, checkpoint: Path) -> Finding:
    try:
        digest = sha256_of(checkpoint)
    except ModelError as e:
        return Finding(f"model {row.name}", State.BAD, str(e), "pip install --force-reinstall --no-deps esam-rt")
    megabytes = checkpoint.stat().st_size / 1e6
    return Finding(f"model {row.name}", State.OK, f"{checkpoint.name}, {megabytes:.1f} MB, SHA-256 {digest[:12]}…")


def list_gpus() -> tuple[GpuCard, ...] | Finding:
    """Ask ``nvidia-smi`` for the GPUs.

    Returns:
        The GPUs, or the finding that says why there are none.
    """
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", State.ABSENT, "no nvidia-smi: no NVIDIA GPU or no driver")
    query = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError) as e:
        return Finding("gpu", State.ABSENT, f"nvidia-smi failed: {e}", "check the NVIDIA driver")
    lines = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    if not lines:
        return Finding("gpu", State.ABSENT, "nvidia-smi lists no GPU")
    return tuple(GpuCard(line, _capability(line)) for line in lines)


def gpu_finding(cards: tuple[GpuCard, ...] | Finding | None = None) -> Finding:
    """Report the GPUs.

    Args:
        cards: Result of ``list_gpus``. Default: it is asked now.

    Returns:
        Name, memory, driver and compute capability of each.
    """
    cards = list_gpus() if cards is None else cards
    return cards if isinstance(cards, Finding) else Finding("gpu", State.OK, "; ".join(card.line for card in cards))


def cache_finding() -> Finding:
    """Look at the cache folder, or at the nearest folder above it that exists.

    Returns:
        Its free space, or why it cannot be written. A read-only cache is in order if it has all compiled kernels, as
        that of a container.
    """
    folder = cache_folder().absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        remedy = "set ESAM_RT_CACHE to a folder that can be written"
        if there != folder or not there.is_dir() or isinstance(_import("numba"), str):
            return Finding("cache", State.BAD, f"{folder}: {there} is not a writable folder", remedy)
        from esam_rt.kernels.warmup import usable_kernels  # it needs numba

        usable, kernels = usable_kernels()
        if usable == kernels:
            return Finding("cache", State.OK, f"{folder}, read-only; its {kernels} compiled kernels are used")
        found = f"{folder}, read-only; {usable} of {kernels} compiled kernels are used, each run compiles the others"
        return Finding("cache", State.BAD, found, remedy)
    return Finding("cache", State.OK, f"{folder}, {shutil.disk_usage(there).free / 1e9:.1f} GB free")


def _capability(line: str) -> str:
    """``sm_86`` from a line of nvidia-smi; empty if the line has too few fields."""
    fields = line.rsplit(", ", maxsplit=len(QUERY) - 1)
    return f"sm_{fields[-1].replace('.', '')}" if len(fields) == len(QUERY) else ""


def _import(name: str) -> ModuleType | str:
    """The module, or why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        return "not installed" if e.name == name else f"does not load: {e}"
    except (ImportError, OSError) as e:  # OSError: its shared library is missing
        return f"does not load: {e}"


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
