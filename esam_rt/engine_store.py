"""TensorRT engines of models: built once, described beside the files, checked before the library sees a byte.

A set of engines is a folder: `encoder.engine` and the others, and `engine.json`, which says of what and how they were
made, and what their self-test found. (The manifest beside is of the files as they were built; nothing reads it.)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from esam_rt.artifacts import GRAPHS, SILENT, ModelListener, OnnxModel, onnx_model
from esam_rt.engines.tensorrt.builder import (
    LIBRARIES,
    BuildOptions,
    build_engine,
    check_rtx,
    fuses_attention,
    load_library,
)
from esam_rt.engines.tensorrt.trt_engine import Weights
from esam_rt.errors import (
    DeviceError,
    EngineError,
    EsamError,
    MissingDependencyError,
    ModelError,
    OutputError,
    SettingsError,
)
from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.export.exporter_version import EXPORTER_VERSION
from esam_rt.library_caches import timing_cache
from esam_rt.sam.models import ModelRow
from esam_rt.storage.atomic import output_error, write_json
from esam_rt.storage.cache_dir import cache_folder
from esam_rt.storage.hashing import remembered_sha256, sha256_of
from esam_rt.storage.manifest import listed_files, remove_leftovers, written_together
from esam_rt.storage.onnx_files import check_graph_file
from esam_rt.storage.permissions import is_only_ours

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

    def attention(self, row: ModelRow, library: ModuleType) -> str | None:
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


def gpu_here() -> Gpu | None:
    """The first GPU of this machine; None where there is none, or no cuda-python to ask."""
    from esam_rt.engines.cuda.api import name_and_capability

    try:
        name, capability = name_and_capability()
    except (DeviceError, MissingDependencyError):
        return None
    return Gpu(capability, name)


def record_self_test(engines: EngineSet, result: Mapping[str, Any]) -> None:
    """Note what a self-test found, for later loads; nothing where the folder cannot be written."""
    with contextlib.suppress(OutputError):
        write_json(engines.folder / SIDECAR, {**engines.sidecar, "self_test": dict(result)})
        _keep_from_others(engines.folder, engines.sidecar)


def store_folder() -> Path:
    """Where engines are kept."""
    return cache_folder() / "engines"


def engine_set(
    row: ModelRow,
    spec: EngineSpec,
    checkpoint: Path | None = None,
    out: Path | None = None,
    build: bool = True,
    force: bool = False,
    listener: ModelListener = SILENT,
    graphs: OnnxModel | None = None,
) -> EngineSet:
    """The engines of a model, built unless they are there and whole: in `out`, else in the store.

    The model is exported first if need be. build: whether what is missing, damaged or made otherwise may be built;
    else ModelError, which names what differs. force: build even if they are there. graphs: of the spec's precision, in
    place of those that would be exported. Two processes that want the same engines build them once. Errors as of
    `onnx_model` and `build_engine`; EngineError where they are there and failed their self-test: built again, they
    would again; OutputError where they cannot be written.
    """
    library, options = load_library(spec.backend), spec.options or BuildOptions()
    if spec.gpu is None and not options.targets:
        raise SettingsError(
            f"Backend {spec.backend}: found no GPU here that cuda-python reaches, expected --target with those "
            "that will run the engines, such as --target sm_86,sm_89."
        )
    graphs = graphs or onnx_model(row, checkpoint, spec.precision, spec.attention(row, library), listener)
    wanted = description(row, spec, graphs, library)
    folder = out or store_folder() / f"{row.name}-{spec.backend}-{spec.precision}-{_key(wanted)}"
    if not force and (there := _usable(folder, wanted) or (None if out else _ahead_of_time(wanted, spec))):
        return there
    if not build:
        return checked(folder, wanted)  # which says what is wrong
    is_new = not folder.exists()
    try:
        with _locked(folder):
            if force or not (there := _usable(folder, wanted)):
                remove_leftovers(folder)
                _build(folder, wanted, graphs, library, options, listener)
                there = checked(folder, wanted)
            return there
    except OSError as e:
        raise e if isinstance(e, EsamError) else output_error(folder, e) from e
    finally:
        with contextlib.suppress(OSError):
            if is_new:
                folder.rmdir()  # if nothing came of it


def description(row: ModelRow, spec: EngineSpec, graphs: OnnxModel, library: ModuleType) -> dict[str, Any]:
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
                f"{folder / SIDECAR}: {name}: found {_short(sidecar.get(name))}, expected {_short(expected)}; build "
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


def check_trusted(folder: Path) -> None:
    """ModelError unless engines that bring code for the CPU lie in the store, where nobody but the user and the
    administrator could have put or changed them."""
    if not folder.resolve().is_relative_to(store_folder().resolve()):
        raise ModelError(
            f"{folder}: found engines for other versions of TensorRT, which bring code for the CPU; expected such only "
            f"in your own cache. If you trust whoever built them, copy the folder into {store_folder()}."
        )
    for path in (folder, folder / SIDECAR, *(folder / name for name in NAMES)):
        if not is_only_ours(path.lstat()):
            raise ModelError(
                f"{path}: found engines for other versions of TensorRT, which bring code for the CPU, where others can "
                "write; expected them to be yours alone. Build them again: esam-rt build-engine --force."
            )


def _keep_from_others(folder: Path, sidecar: Mapping[str, Any]) -> None:
    """Let nobody else write what `check_trusted` is to trust, whatever the umask."""
    if sidecar["options"].get("version_compatible"):
        for path in (folder, *folder.iterdir()):
            path.chmod(path.stat().st_mode & ~0o022)


def stored() -> list[Path]:
    """The folders of the store that hold engines or what is left of some. OutputError where it cannot be read."""
    try:
        return sorted(p for p in store_folder().iterdir() if p.is_dir())
    except FileNotFoundError:
        return []
    except OSError as e:
        raise OutputError(
            f"{store_folder()}: cannot be read ({e.strerror}); set ESAM_RT_CACHE to a folder of your own."
        ) from e


def verify(folder: Path) -> str | None:
    """What is wrong with the engines of a folder, hashed in full; None where nothing is."""
    try:
        engines = checked(folder)
        for name in NAMES:
            if sha256_of(folder / name) != engines.sidecar["engines"][name].get("sha256"):
                return f"{folder / name}: differs from its hash"
    except (ModelError, EngineError) as e:
        return str(e)
    return None


def outdated(folder: Path) -> str | None:
    """Why no run will use the engines of a folder any more; None where one may."""
    try:
        sidecar = checked(folder).sidecar
        backend, version, exporter = (sidecar.get(name) for name in ("backend", "backend_version", "exporter_version"))
        if backend not in LIBRARIES:
            return f"{folder / SIDECAR}: backend: found {_short(backend)}, expected one of {', '.join(LIBRARIES)}"
        installed = load_library(backend).__version__
    except MissingDependencyError:
        return None  # of another environment, which shares the cache
    except EsamError as e:
        return str(e)
    if sidecar["format"] != FORMAT:
        return f"described in format {sidecar['format']}, this is {FORMAT}"
    if version != installed and not runs_with(sidecar, installed):
        return f"built with {backend} {version}, installed is {installed}"
    if exporter != EXPORTER_VERSION:
        return f"built of graphs of version {exporter}, this is {EXPORTER_VERSION}"
    return None


def remove(folder: Path) -> int | None:
    """Remove the engines of a folder; returns the bytes that are free now, None where somebody is building there.
    OutputError where they cannot be removed."""
    try:
        with _locked(folder, timeout=0):
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            shutil.rmtree(folder)
            return size
    except Timeout:
        return None
    except OSError as e:
        raise OutputError(f"{folder}: cannot be removed ({e.strerror}); check its permissions.") from e


def _build(
    folder: Path,
    wanted: Mapping[str, Any],
    graphs: OnnxModel,
    library: ModuleType,
    options: BuildOptions,
    listener: ModelListener,
) -> None:
    """Build all engines and write them with their sidecar."""
    tell = listener.writing or (lambda step: None)
    measures = wanted["backend"] == "tensorrt" and wanted["gpu"]  # TensorRT-RTX compiles for the GPU when it runs
    timings = timing_cache("tensorrt", library.__version__, wanted["gpu"]["name"]) if measures else None
    with written_together(folder) as temporary:
        entries: dict[str, Any] = {}
        for name, graph in zip(NAMES, (graphs.encoder, graphs.decoder, graphs.masks, graphs.logits), strict=True):
            tell(name)
            built = build_engine(graph, library, options, listener.building, timings)
            (temporary / name).write_bytes(built.plan)
            entries[name] = {
                "sha256": sha256_of(temporary / name),
                "size_bytes": (temporary / name).stat().st_size,
                "layers": built.layers,
                "attention": built.attention,
                "seconds": round(built.seconds, 2),
                "profile": {key: [list(shape) for shape in shapes] for key, shapes in built.profile.items()},
            }
        made = {"engines": entries, "built": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(temporary / SIDECAR, {**wanted, **made})
    _keep_from_others(folder, wanted)


def given_engines(
    folder: Path, row: ModelRow, spec: EngineSpec, library: ModuleType, checkpoint: Path | None = None
) -> EngineSet:
    """The engines of a folder that a user names, of any options, and of any checkpoint unless
    one is given; ModelError, naming the field, unless they are of this model, precision and library, and for the GPU at
    hand."""
    fields = {"format": FORMAT, "model": row.name, "exporter_version": EXPORTER_VERSION, "backend": spec.backend}
    fields |= {"backend_version": library.__version__, "precision": spec.precision}
    if checkpoint is not None:
        fields["checkpoint_sha256"] = checkpoint_sha256(checkpoint)
    engines = checked(folder, fields)
    if not runs_on(engines.sidecar, spec.gpu):
        found = engines.sidecar.get("targets") or engines.sidecar.get("gpu")
        raise ModelError(
            f"{folder / SIDECAR}: targets: found {_short(found)}, expected {spec.gpu}; build the engines for this GPU."
        )
    return engines


def _ahead_of_time(wanted: Mapping[str, Any], spec: EngineSpec) -> EngineSet | None:
    """Engines of the store that run on the GPU at hand, built ahead of time or by an earlier version for later ones."""
    for folder in stored() if spec.gpu and spec.options is None else []:
        with contextlib.suppress(ModelError, EngineError):
            sidecar = checked(folder).sidecar
            is_made_for_more = sidecar["targets"] or sidecar["options"].get("version_compatible")
            fields = {**wanted, **{name: sidecar.get(name) for name in ("targets", "gpu", "options")}}
            if is_made_for_more and runs_on(sidecar, spec.gpu) and (there := _usable(folder, fields)):
                if sidecar["options"].get("version_compatible"):
                    check_trusted(folder)
                return there
    return None


def weights_of(
    engines: EngineSet, row: ModelRow, spec: EngineSpec, checkpoint: Path | None, listener: ModelListener = SILENT
) -> Mapping[str, Weights]:
    """What engines without weights are to get, by name; empty for others. The model is exported if need be, and its
    graphs must be the very ones that the engines were built of, by their hashes: ModelError otherwise."""
    if not engines.sidecar["options"].get("strip_weights"):
        return {}
    found, expected = engines.sidecar["checkpoint_sha256"], _checkpoint_sha256(row, checkpoint)
    if found != expected:
        raise ModelError(
            f"{engines.folder / SIDECAR}: checkpoint_sha256: found {found[:12]}…, expected {expected[:12]}… of "
            f"{checkpoint or row.name}; these engines take their weights from the checkpoint that they were made of: "
            "give it, --checkpoint."
        )
    wanted = engines.sidecar["onnx_sha256"]
    first = spec.attention(row, load_library(spec.backend))
    for attention in dict.fromkeys((first, *ATTENTION)) if first else (None,):
        graphs = onnx_model(row, checkpoint, spec.precision, attention, listener)
        files = listed_files(graphs.encoder.parent, GRAPHS)
        if {name: entry["sha256"] for name, entry in files.items()} == wanted:
            paths = (graphs.encoder, graphs.decoder, graphs.masks, graphs.logits)
            for path in paths:
                for file in sorted({path, *(tensor.file for tensor in check_graph_file(path))}):
                    _check_hash(file, str(wanted.get(file.name)))
            return {name: Weights(path, _size(path, files)) for name, path in zip(NAMES, paths, strict=True)}
    raise ModelError(
        f"{engines.folder / SIDECAR}: onnx_sha256: found {_short(wanted)}, expected those of the graphs of {row.name}, "
        "whose weights these engines lack; build them again."
    )


def _checkpoint_sha256(row: ModelRow, checkpoint: Path | None) -> str:
    """Of the one given, else of that which ships or is published, which need not be here."""
    if file := checkpoint or row.checkpoint:
        return checkpoint_sha256(file)
    return row.remote.sha256 if row.remote else ""


def _check_hash(file: Path, expected: str) -> None:
    """ModelError for a file that is not the one that engines were built of."""
    found = remembered_sha256(file)
    if found != expected:
        raise ModelError(
            f"{file}: found SHA-256 {found[:12]}…, expected {expected[:12]}…; the file is damaged. Remove its "
            "folder, it is made again."
        )


def _size(graph: Path, files: Mapping[str, Any]) -> int:
    """Bytes of a graph and of its weights beside it."""
    return sum(int(files[name]["size_bytes"]) for name in (graph.name, f"{graph.name}.data") if name in files)


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


def _locked(folder: Path, timeout: float = -1) -> FileLock:
    """The lock of a folder of engines, which lies in the store wherever the folder is."""
    store_folder().mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return FileLock(store_folder() / f".{name}.lock", timeout=timeout)


def _usable(folder: Path, wanted: Mapping[str, Any]) -> EngineSet | None:
    """The engines of a folder, None unless they are the wanted ones and whole, hashes included: what is damaged is to
    be built again, not only refused when it is loaded."""
    with contextlib.suppress(ModelError):
        engines = checked(folder, wanted)
        return engines if verify(folder) is None else None
    return None


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
            found = _short(sidecar.get(name))
            raise ModelError(f"{path}: {name}: found {found}, expected another value; build the engines again.")
    return sidecar


def _key(wanted: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def _short(value: object) -> str:
    return f"{json.dumps(value):.120}"
