"""The record beside a folder of engines: how they were made, and the checks against it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from esam_rt.engines.tensorrt.builder import BuildOptions
from esam_rt.errors import EngineError, ModelError
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.loading.engine_spec import EngineSpec, Gpu
from esam_rt.loading.onnx_cache import OnnxModel
from esam_rt.networks import ENGINE_FILES, GRAPHS
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.json_files import bounded_json
from esam_rt.storage.manifest import listed_files

RECORD = "engine.json"
FORMAT = 2  # of the record, and of the build settings that this code gives to the libraries
REBUILD = "Build the engines again: esam-rt build-engine."


@dataclass(frozen=True)
class EngineFile:
    """One engine of a record.

    Attributes:
        sha256: Hash of the file, in hexadecimal.
        size_bytes: Size of the file.
        layers: Layers of the network, as parsed.
        attention: Fused attention operators.
        seconds: Time of the build.
        profile: Smallest, usual and largest shape of each input with dynamic dimensions.
    """

    sha256: str
    size_bytes: int
    layers: int = 0
    attention: int = 0
    seconds: float = 0.0
    profile: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineRecipe:
    """All that decides if engines are the wanted ones; see ``recipe_of``.

    Attributes:
        format: Version of the record.
        model: Name of the model.
        checkpoint_sha256: Hash of its weights.
        exporter_version: Version of the exporter that wrote the graphs.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        onnx_sha256: Hash of each graph file.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        backend_version: Version of the library.
        targets: Compute capabilities that the engines were built for ahead of time. Empty = for ``gpu``.
        gpu: The GPU that they were built on.
        options: Fields of ``BuildOptions`` without ``targets``.
    """

    format: int
    model: str
    checkpoint_sha256: str
    exporter_version: str
    precision: str
    onnx_sha256: Mapping[str, str]
    backend: str
    backend_version: str
    targets: tuple[str, ...]
    gpu: Gpu | None
    options: Mapping[str, Any]

    @property
    def max_batch(self) -> int:
        """Most prompts of one call."""
        return int(self.options["max_batch"])

    @property
    def is_version_compatible(self) -> bool:
        """True if later versions of the library run the engines too. They contain host code."""
        return self.options.get("version_compatible") is True

    @property
    def is_stripped(self) -> bool:
        """True if the engines lack their weights."""
        return bool(self.options.get("strip_weights"))

    @property
    def runs_on_names(self) -> list[str]:
        """Targets, or the name of the GPU, for tables."""
        return list(self.targets) or ([self.gpu.name] if self.gpu else ["?"])

    def runs_on(self, gpu: Gpu | None) -> bool:
        """Check if the engines were built for a GPU.

        Args:
            gpu: A GPU, or ``None``.

        Returns:
            True if ``gpu`` is a target or the GPU of the build.
        """
        return gpu is not None and (gpu.capability in self.targets or self.gpu == gpu)

    def runs_with(self, version: str) -> bool:
        """Check if another version of the library runs the engines.

        Args:
            version: For example ``10.9.8``.

        Returns:
            True if the engines were built for later versions, and ``version`` is not older than theirs.
        """
        return self.is_version_compatible and _numbers(self.backend_version) <= _numbers(version)

    def to_json(self) -> dict[str, Any]:
        """Convert to the content of the record file.

        Returns:
            Lists and dicts in place of tuples and dataclasses.
        """
        return asdict(self) | {"targets": list(self.targets)}


@dataclass(frozen=True)
class EngineRecord(EngineRecipe):
    """The recipe of a folder of engines, and the result.

    Attributes:
        engines: Each engine by file name.
        built: Time of the build, ISO 8601, UTC.
        self_test: Result of the self-test, ``None`` before it. ``failed`` holds the message of a failure.
    """

    engines: Mapping[str, EngineFile]
    built: str
    self_test: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to the content of the record file.

        Returns:
            Lists and dicts in place of tuples and dataclasses; no ``self_test`` before the self-test.
        """
        content = super().to_json()
        if self.self_test is None:
            del content["self_test"]
        return content


@dataclass(frozen=True)
class EngineSet:
    """A folder of engines and its record.

    Attributes:
        folder: Where the engines are.
        record: How they were made.
    """

    folder: Path
    record: EngineRecord

    def plan(self, name: str) -> bytes:
        """Read an engine and check its hash.

        Args:
            name: One of ``ENGINE_FILES``.

        Returns:
            The content of the file.

        Raises:
            ModelError: The file cannot be read, or its hash differs from the record.
        """
        path, expected = self.folder / name, self.record.engines[name].sha256
        try:
            content = path.read_bytes()
        except OSError as e:
            raise ModelError(f"{path}: the engine cannot be read ({e.strerror}). {REBUILD}") from e
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ModelError(
                f"{path}: found SHA-256 {found[:12]}…, expected {expected[:12]}… of {RECORD}: the file is "
                f"damaged or of another build. {REBUILD}"
            )
        return content


def recipe_of(row: ModelSpec, spec: EngineSpec, graphs: OnnxModel, library: ModuleType) -> EngineRecipe:
    """Describe the engines that a build would make.

    Args:
        row: The model.
        spec: The wanted engines.
        graphs: Their graphs.
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        The recipe.
    """
    files, options = listed_files(graphs.encoder.parent, GRAPHS), spec.options or BuildOptions()
    return EngineRecipe(
        format=FORMAT,
        model=row.name,
        checkpoint_sha256=graphs.checkpoint_sha256,
        exporter_version=EXPORTER_VERSION,
        precision=spec.precision,
        onnx_sha256={name: entry["sha256"] for name, entry in sorted(files.items())},
        backend=spec.backend,
        backend_version=library.__version__,
        targets=options.targets,
        gpu=None if options.targets else spec.gpu,
        options={key: value for key, value in asdict(options).items() if key != "targets"},
    )


def checked(folder: Path, wanted: Mapping[str, Any] | None = None) -> EngineSet:
    """Read the record of a folder of engines and check it. ``EngineSet.plan`` checks the hashes.

    Args:
        folder: Folder of engines.
        wanted: Expected fields, in the form of ``EngineRecipe.to_json``. Default: any.

    Returns:
        The engines.

    Raises:
        ModelError: The record is missing or damaged, a field differs, or a file is missing or of another size.
        EngineError: The engines failed their self-test.
    """
    record = read_record(folder / RECORD)
    found = record.to_json()
    for name, expected in (wanted or {}).items():
        if found.get(name) != expected and not (name == "backend_version" and record.runs_with(expected)):
            raise ModelError(
                f"{folder / RECORD}: {name}: found {brief(found.get(name))}, expected {brief(expected)}. {REBUILD}"
            )
    for name in ENGINE_FILES:
        path, size = folder / name, record.engines[name].size_bytes
        if not path.is_file() or path.is_symlink():
            raise ModelError(f"{path}: found no such file, expected an engine. {REBUILD}")
        if path.stat().st_size != size:
            raise ModelError(
                f"{path}: found {path.stat().st_size} bytes, expected {size}: the file is cut off or of another build. "
                f"{REBUILD}"
            )
    if failed := (record.self_test or {}).get("failed"):
        raise EngineError(f"{folder}: {failed} To build these again: esam-rt build-engine --force.")
    return EngineSet(folder, record)


def brief(value: object) -> str:
    """Show a value in an error message.

    Args:
        value: Anything that JSON can hold.

    Returns:
        JSON of at most 120 characters.
    """
    return f"{json.dumps(value):.120}"


def read_record(path: Path) -> EngineRecord:
    """Read a record, which may be hostile.

    Args:
        path: The record file.

    Returns:
        The record; each field has its type.

    Raises:
        ModelError: The file is missing, is no JSON, or a field is missing or of another type.
    """
    try:
        content = bounded_json(path)
    except FileNotFoundError as e:
        raise ModelError(
            f"{path}: found no such file, expected a folder of engines. Make one: esam-rt build-engine."
        ) from e
    except (OSError, ValueError) as e:
        raise ModelError(f"{path}: cannot be read as JSON ({e}). {REBUILD}") from e
    if not isinstance(content, dict):
        raise ModelError(f"{path}: found no table, expected one. {REBUILD}")
    for name, is_valid in _FIELDS.items():
        if not is_valid(content.get(name)):
            raise ModelError(f"{path}: {name}: found {brief(content.get(name))}, expected another value. {REBUILD}")
    values = {name: content.get(name) for name in _FIELDS}
    return EngineRecord(
        **values
        | {
            "targets": tuple(content["targets"]),
            "gpu": None if content["gpu"] is None else Gpu(**content["gpu"]),
            "engines": {name: _engine_file(path, name, content["engines"].get(name)) for name in ENGINE_FILES},
        }
    )


def _engine_file(path: Path, name: str, entry: Any) -> EngineFile:
    """One engine of a record, checked."""
    if not isinstance(entry, dict):
        raise ModelError(f"{path}: found no entry {name}, expected one. {REBUILD}")
    known = {key: entry[key] for key in _ENGINE_FIELDS if key in entry}
    for key, is_valid in _ENGINE_FIELDS.items():
        if (key in known or key in ("sha256", "size_bytes")) and not is_valid(known.get(key)):
            raise ModelError(f"{path}: {name}: {key}: found {brief(known.get(key))}, expected another value. {REBUILD}")
    return EngineFile(**known)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_gpu(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"capability", "name"} and all(map(_is_text, value.values()))


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "format": lambda value: type(value) is int,
    **dict.fromkeys(
        ("model", "checkpoint_sha256", "exporter_version", "precision", "backend", "backend_version", "built"), _is_text
    ),
    "onnx_sha256": _is_table,
    "engines": _is_table,
    "targets": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "gpu": lambda value: value is None or _is_gpu(value),
    "options": lambda value: _is_table(value) and type(value.get("max_batch")) is int and value["max_batch"] > 0,
    "self_test": lambda value: value is None or _is_table(value),
}
"""Checks of the fields of a record."""

_ENGINE_FIELDS: dict[str, Callable[[Any], bool]] = {
    "sha256": _is_text,
    "size_bytes": _is_number,
    "layers": _is_number,
    "attention": _is_number,
    "seconds": _is_number,
    "profile": _is_table,
}
"""Checks of the fields of one engine."""
