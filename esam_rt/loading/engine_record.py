"""The record beside a folder of engines: how they were made, and checks against it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from esam_rt.engines.tensorrt.builder import BuildOptions, check_rtx, fuses_attention
from esam_rt.errors import EngineError, ModelError, SettingsError
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.loading.onnx_cache import GRAPHS, OnnxModel
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.manifest import listed_files

SIDECAR = "engine.json"
FORMAT = 2  # of the sidecar, and of what is asked of the libraries
FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: isinstance(value, int),
    **dict.fromkeys(
        ("model", "checkpoint_sha256", "exporter_version", "precision", "backend", "backend_version", "built"),
        lambda value: isinstance(value, str),
    ),
    "onnx_sha256": lambda value: isinstance(value, dict),
    "engines": lambda value: isinstance(value, dict),
    "targets": lambda value: isinstance(value, list) and all(isinstance(target, str) for target in value),
    "gpu": lambda value: value is None or (isinstance(value, dict) and all(isinstance(v, str) for v in value.values())),
    "options": lambda value: isinstance(value, dict) and type(value.get("max_batch")) is int and value["max_batch"] > 0,
    "self_test": lambda value: value is None or isinstance(value, dict),
}
"""What the fields of a sidecar must be."""
ATTENTION = ("fused", "concat", "bias")  # forms of a ViT's encoder, those of TensorRT first
NAMES = tuple(f"{graph.removesuffix('.onnx')}.engine" for graph in GRAPHS)


@dataclass(frozen=True)
class Gpu:
    """A GPU as engines are made for it: `sm_86`, and its name."""

    capability: str
    name: str


@dataclass(frozen=True)
class EngineSpec:
    """What engines are wanted. precision: fp32, fp16 or bf16. fusion: fused attention where the library has it for the
    precision; without, products and softmax one by one. options: None = the defaults, or whatever engines have that
    were built ahead of time. gpu: the one at hand, None where there is none. SettingsError where TensorRT-RTX does not
    run on these GPUs, or not in this precision."""

    backend: str
    precision: str = "fp16"
    fusion: bool = True
    options: BuildOptions | None = None
    gpu: Gpu | None = None

    def __post_init__(self) -> None:
        at_hand = (self.gpu.capability,) if self.gpu else ()
        if self.backend == "tensorrt-rtx":
            check_rtx((self.options and self.options.targets) or at_hand, self.precision)
            if self.options and self.options.version_compatible:
                raise SettingsError(
                    "--version-compatible: TensorRT-RTX runs only what its own version has built; use --backend "
                    "tensorrt, or build again after an update."
                )

    def attention(self, row: ModelSpec, library: ModuleType) -> str | None:
        """The attention form of a model's encoder. TensorRT fuses attention in half precisions only."""
        if row.attention is None:
            return None
        return "fused" if self.fusion and self.precision != "fp32" and fuses_attention(library) else "concat"


@dataclass(frozen=True)
class EngineSet:
    """A folder of engines, and its sidecar."""

    folder: Path
    sidecar: Mapping[str, Any]

    def plan(self, name: str) -> bytes:
        """The bytes of an engine, whose hash is that of the sidecar; ModelError otherwise."""
        path = self.folder / name
        expected = self.sidecar["engines"].get(name, {}).get("sha256")
        try:
            content = path.read_bytes()
        except OSError as e:
            raise ModelError(f"{path}: cannot be read ({e.strerror}); expected an engine. Build it again.") from e
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ModelError(
                f"{path}: found SHA-256 {found[:12]}…, expected {str(expected)[:12]}… of {SIDECAR}; the file is "
                "damaged or of another build. Build it again."
            )
        return content


def description(row: ModelSpec, spec: EngineSpec, graphs: OnnxModel, library: ModuleType) -> dict[str, Any]:
    """The fields of a sidecar that decide whether engines are the wanted ones."""
    files, options = listed_files(graphs.encoder.parent, GRAPHS), spec.options or BuildOptions()
    return {
        "format": FORMAT,
        "model": row.name,
        "checkpoint_sha256": graphs.checkpoint_sha256,
        "exporter_version": EXPORTER_VERSION,
        "precision": spec.precision,
        "onnx_sha256": {name: entry["sha256"] for name, entry in sorted(files.items())},
        "backend": spec.backend,
        "backend_version": library.__version__,
        "targets": list(options.targets),
        "gpu": asdict(spec.gpu) if spec.gpu and not options.targets else None,
        "options": {key: value for key, value in asdict(options).items() if key != "targets"},
    }


def checked(folder: Path, wanted: Mapping[str, Any] | None = None) -> EngineSet:
    """The engines of a folder; ModelError, naming the field, unless its sidecar says what is wanted and its files are
    as large as they were written; `EngineSet.plan` hashes them. EngineError if they failed their self-test."""
    sidecar = _sidecar(folder)
    for name, expected in (wanted or {}).items():
        if sidecar.get(name) != expected and not (name == "backend_version" and runs_with(sidecar, expected)):
            raise ModelError(
                f"{folder / SIDECAR}: {name}: found {brief(sidecar.get(name))}, expected {brief(expected)}; build "
                "the engines again: esam-rt build-engine."
            )
    for name in NAMES:
        entry = sidecar["engines"].get(name)
        if not isinstance(entry, dict):
            raise ModelError(f"{folder / SIDECAR}: found no entry {name}, expected one; build the engines again.")
        path, size = folder / name, entry.get("size_bytes")
        if not path.is_file() or path.is_symlink():
            raise ModelError(f"{path}: found no such file, expected an engine; build the engines again.")
        if path.stat().st_size != size:
            raise ModelError(
                f"{path}: found {path.stat().st_size} bytes, expected {size}; the file is cut off or of another build. "
                "Build the engines again."
            )
    if failed := (sidecar.get("self_test") or {}).get("failed"):
        raise EngineError(f"{folder}: {failed} To build these again: esam-rt build-engine --force.")
    return EngineSet(folder, sidecar)


def runs_with(sidecar: Mapping[str, Any], version: str) -> bool:
    """Whether a library of this version runs engines that were built, by an earlier one, to be run by later ones."""
    built = sidecar.get("backend_version")
    return (
        isinstance(built, str)
        and sidecar["options"].get("version_compatible") is True
        and _numbers(built) <= _numbers(version)
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def runs_on(sidecar: Mapping[str, Any], gpu: Gpu | None) -> bool:
    """Whether engines of a sidecar were built for `gpu`."""
    return gpu is not None and (gpu.capability in sidecar.get("targets", []) or sidecar.get("gpu") == asdict(gpu))


def _sidecar(folder: Path) -> dict[str, Any]:
    path = folder / SIDECAR
    try:
        sidecar = json.loads(path.read_text())
    except FileNotFoundError as e:
        raise ModelError(f"{path}: found no such file, expected engines of esam-rt build-engine.") from e
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{path}: cannot be read as JSON ({e}); build the engines again.") from e
    if not isinstance(sidecar, dict):
        raise ModelError(f"{path}: found no table, expected one; build the engines again.")
    for name, is_valid in FIELDS.items():
        if not is_valid(sidecar.get(name)):
            found = brief(sidecar.get(name))
            raise ModelError(f"{path}: {name}: found {found}, expected another value; build the engines again.")
    return sidecar


def brief(value: object) -> str:
    """A value as JSON, at most 120 characters."""
    return f"{json.dumps(value):.120}"
