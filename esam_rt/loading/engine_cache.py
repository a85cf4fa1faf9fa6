"""TensorRT engines of models: built once, found again, pruned."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout

from esam_rt.engines.tensorrt.builder import LIBRARIES, BuildOptions, build_engine, load_library
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
from esam_rt.loading.engine_record import (
    FORMAT,
    NAMES,
    SIDECAR,
    EngineSet,
    EngineSpec,
    Gpu,
    brief,
    checked,
    description,
    runs_on,
    runs_with,
)
from esam_rt.loading.engine_trust import check_trusted, restrict_writing, store_folder
from esam_rt.loading.events import SILENT, ModelListener
from esam_rt.loading.library_caches import timing_cache
from esam_rt.loading.onnx_cache import OnnxModel, onnx_model
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.atomic import output_error, write_json
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.manifest import remove_leftovers, written_together


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
        restrict_writing(engines.folder, engines.sidecar)


def engine_set(
    row: ModelSpec,
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
            return f"{folder / SIDECAR}: backend: found {brief(backend)}, expected one of {', '.join(LIBRARIES)}"
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
        for name, graph in zip(NAMES, (graphs.encoder, graphs.decoder, graphs.mask_head, graphs.logits), strict=True):
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
    restrict_writing(folder, wanted)


def given_engines(
    folder: Path, row: ModelSpec, spec: EngineSpec, library: ModuleType, checkpoint: Path | None = None
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
            f"{folder / SIDECAR}: targets: found {brief(found)}, expected {spec.gpu}; build the engines for this GPU."
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


def _key(wanted: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
