"""What this machine has of what esam-rt can use, and the command that brings what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
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
    "pooch": "pooch",
    "requests": "requests",
    "safetensors": "safetensors",
}
TENSORRT = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}  # import name -> extra


class State(StrEnum):
    """What a finding means: in order, optional and absent, or in the way of a run."""

    OK = "ok"
    ABSENT = "absent"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One line of the report; remedy is a command or a sentence, empty where there is nothing to do."""

    name: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and the backends that can run here."""

    findings: tuple[Finding, ...]
    backends: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 when esam-rt can run on at least one backend."""
        return 0 if self.backends else ModelError.exit_code

    def to_json(self) -> dict[str, Any]:
        """Plain dict for `--json`."""
        return {"backends": list(self.backends), "findings": [asdict(f) for f in self.findings]}


def diagnose() -> Diagnosis:
    """Look at everything; nothing is changed, downloaded or written."""
    gpu = gpu_finding()
    runtime = onnxruntime_finding(has_gpu=gpu.state is State.OK)
    needed = [*library_findings(), *model_findings()]
    findings = [*version_findings(), *needed, runtime, *provider_findings(), *tensorrt_findings(gpu)]
    findings += [array_finding(), gpu, cache_finding()]
    backends = [runtime]
    if gpu.state is State.OK and runtime.state is State.OK:  # which the self-test of engines takes
        backends += [f for f in findings if f.name in TENSORRT.values()]
    able = all(f.state is State.OK for f in needed)
    return Diagnosis(tuple(findings), tuple(f.name for f in backends if able and f.state is State.OK))


def version_findings() -> Iterator[Finding]:
    """Python and esam-rt itself."""
    yield Finding("python", State.OK, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("esam-rt", State.OK, __version__)


def library_findings() -> Iterator[Finding]:
    """The libraries every run needs, imported: a version that is installed may still fail to load."""
    for name, package in LIBRARIES.items():
        module = _import(name)
        if isinstance(module, str):
            yield Finding(package, State.BAD, module, f"pip install {package}")
        else:
            yield Finding(package, State.OK, getattr(module, "__version__", "installed"))


def onnxruntime_finding(has_gpu: bool) -> Finding:
    """ONNX Runtime and its providers; the two wheels overwrite each other's files, so only one may be installed."""
    extra = "gpu" if has_gpu else "cpu"
    wheels = [w for w in ("onnxruntime", "onnxruntime-gpu") if _is_installed(w)]
    again = f"pip uninstall -y {' '.join(wheels)} && pip install 'esam-rt[{extra}]'"
    module = _import("onnxruntime")
    if isinstance(module, str):
        return Finding("onnxruntime", State.BAD, module, again if wheels else f"pip install 'esam-rt[{extra}]'")
    providers = [p.removesuffix("ExecutionProvider") for p in module.get_available_providers()]
    remedy = again if len(wheels) > 1 or (has_gpu and "CUDA" not in providers) else ""
    return Finding("onnxruntime", State.OK, f"{module.__version__}, providers {', '.join(providers)}", remedy)


def provider_findings() -> Iterator[Finding]:
    """CUDA, cuDNN and TensorRT as ONNX Runtime's providers want them, where there are such providers."""
    module = _import("onnxruntime")
    if isinstance(module, str):
        return
    for device, missing_of in (("cuda", missing_cuda), ("tensorrt", missing_tensorrt)):
        if PROVIDERS[device] in module.get_available_providers():
            missing = missing_of(module)
            found, remedy = missing or ("its libraries load", "")
            yield Finding(f"onnxruntime on device {device}", State.ABSENT if missing else State.OK, found, remedy)


def tensorrt_findings(gpu: Finding) -> Iterator[Finding]:
    """TensorRT and TensorRT-RTX, both optional."""
    capabilities = {f"sm_{card.rpartition(', ')[2].replace('.', '')}" for card in gpu.found.split("; ")}
    for name, extra in TENSORRT.items():
        module, cuda = _import(name), _import("cuda.bindings.runtime")
        if extra == "tensorrt-rtx" and (lacking := sorted(capabilities & set(NOT_RTX))):
            yield Finding(extra, State.ABSENT, f"does not run on {', '.join(lacking)}", INSTEAD_OF_RTX)
        elif isinstance(module, str):
            yield Finding(extra, State.ABSENT, module, f"pip install 'esam-rt[{extra}]'")
        elif isinstance(cuda, str):
            found = f"{module.__version__}, builds engines; to run them cuda-python is {cuda}"
            yield Finding(extra, State.ABSENT, found, f"pip install 'esam-rt[{extra}]'")
        else:
            yield Finding(extra, State.OK, module.__version__)


def array_finding() -> Finding:
    """What reads arrays of other libraries on a GPU, optional."""
    module = _import("cuda.core")
    if isinstance(module, str):
        return Finding("cuda-core", State.ABSENT, f"{module}; reads photos on a GPU by DLPack", "pip install cuda-core")
    return Finding("cuda-core", State.OK, module.__version__)


def model_findings() -> Iterator[Finding]:
    """The models that ship with the package, with the start of their SHA-256."""
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


def gpu_finding() -> Finding:
    """NVIDIA GPUs as `nvidia-smi` lists them: name, memory, driver, compute capability."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    if shutil.which(query[0]) is None:
        return Finding("gpu", State.ABSENT, "no nvidia-smi: no NVIDIA GPU or no driver")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError) as e:
        return Finding("gpu", State.ABSENT, f"nvidia-smi failed: {e}", "check the NVIDIA driver")
    cards = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return (
        Finding("gpu", State.OK, "; ".join(cards)) if cards else Finding("gpu", State.ABSENT, "nvidia-smi lists none")
    )


def cache_finding() -> Finding:
    """The cache folder, or the nearest folder above that exists: is it writable, how much room is left?"""
    folder = cache_folder().absolute()
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        remedy = "set ESAM_RT_CACHE to a folder that can be written"
        return Finding("cache", State.BAD, f"{folder}: {there} is not a writable folder", remedy)
    return Finding("cache", State.OK, f"{folder}, {shutil.disk_usage(there).free / 1e9:.1f} GB free")


def _import(name: str) -> ModuleType | str:
    """The module, or why it cannot be imported. OSError: a package whose shared library is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        return "not installed" if e.name == name else f"does not load: {e}"
    except (ImportError, OSError) as e:
        return f"does not load: {e}"


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
