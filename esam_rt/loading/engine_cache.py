"""TensorRT engines of models: built once, found again, checked for age and damage, removed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
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
from esam_rt.loading.engine_record import FORMAT, RECORD, EngineFile, EngineRecipe, EngineSet, brief, checked, recipe_of
from esam_rt.loading.engine_spec import EngineSpec, Gpu
from esam_rt.loading.engine_trust import check_trusted, restrict_writing, store_folder
from esam_rt.loading.events import Building, OnEvent, ignore
from esam_rt.loading.library_caches import timing_cache
from esam_rt.loading.onnx_cache import OnnxModel, onnx_model
from esam_rt.networks import ENGINE_FILES
from esam_rt.sam.models import ModelSpec
from esam_rt.storage.atomic import TEMPORARY, output_error, write_json
from esam_rt.storage.hashing import sha256_of
from esam_rt.storage.keys import folder_bytes, path_key, text_key
from esam_rt.storage.manifest import remove_leftovers, written_together
from esam_rt.storage.provenance import utc_now


def gpu_here(index: int = 0) -> Gpu | None:
    """Ask CUDA for a GPU of this machine.

    Args:
        index: Index of the GPU, as CUDA counts them.

    Returns:
        The GPU; ``None`` without it, and without cuda-python.
    """
    from esam_rt.engines.cuda.api import name_and_capability

    try:
        name, capability = name_and_capability(index)
    except (DeviceError, MissingDependencyError):
        return None
    return Gpu(capability, name)


def record_self_test(engines: EngineSet, result: Mapping[str, Any]) -> None:
    """Write the result of a self-test into the record, for later loads. A read-only folder stays as it is.

    Args:
        engines: The tested engines.
        result: What the test found.
    """
    with contextlib.suppress(OutputError):
        write_json(engines.folder / RECORD, replace(engines.record, self_test=dict(result)).to_json())
        restrict_writing(engines.folder, engines.record)


def engine_set(
    row: ModelSpec,
    spec: EngineSpec,
    checkpoint: Path | None = None,
    out: Path | None = None,
    build: bool = True,
    force: bool = False,
    on_event: OnEvent = ignore,
    graphs: OnnxModel | None = None,
) -> EngineSet:
    """Find the engines of a model, or build them. The model is exported first if needed.

    Two processes that want the same engines build them once.

    Args:
        row: The model.
        spec: The wanted engines.
        checkpoint: The user's own weights. Default: those of ``checkpoint_of``.
        out: Folder of the engines. Default: the cache.
        build: If true, engines that are missing, damaged or different are built. If false, they are a ``ModelError``.
        force: If true, existing engines are built again.
        on_event: Gets the events of the download, the export and the build.
        graphs: Graphs in the precision of ``spec``. Default: those of ``onnx_model``.

    Returns:
        The engines.

    Raises:
        SettingsError: There is no GPU here and ``spec`` has no targets, or the library does not know a target.
        MissingDependencyError: The library is not installed.
        ModelError: The checkpoint or a graph cannot be used, or ``build`` is false and the engines differ.
        EngineError: A build failed, or existing engines failed their self-test; the same build would fail again.
        DeviceError: The library cannot use the GPU.
        OutputError: The folder cannot be written.
    """
    library, options = load_library(spec.backend), spec.options or BuildOptions()
    if spec.gpu is None and not options.targets:
        raise SettingsError(
            f"Backend {spec.backend}: cuda-python finds no GPU {spec.gpu_index} here. Name the GPUs that will run the "
            "engines, such as --target sm_86,sm_89."
        )
    graphs = graphs or onnx_model(row, checkpoint, spec.precision, spec.attention(row, library), on_event)
    recipe = recipe_of(row, spec, graphs, library)
    wanted = recipe.to_json()
    key = text_key(json.dumps(wanted, sort_keys=True))
    folder = out or store_folder() / f"{row.name}-{spec.backend}-{spec.precision}-{key}"
    if not force and (there := _usable(folder, wanted) or (None if out else _ahead_of_time(recipe, spec))):
        _tidy(there.folder)
        return there
    if not build:
        return checked(folder, wanted)  # raises the error that names the difference
    is_new = not folder.exists()
    try:
        with _locked(folder):
            if force or not (there := _usable(folder, wanted)):
                remove_leftovers(folder)
                with _current_gpu(recipe, spec.gpu_index):
                    _build(folder, recipe, graphs, library, options, on_event)
                there = checked(folder, wanted)
            return there
    except OSError as e:
        raise e if isinstance(e, EsamError) else output_error(folder, e) from e
    finally:
        with contextlib.suppress(OSError):
            if is_new:
                folder.rmdir()  # succeeds only if it is empty


def given_engines(
    folder: Path, row: ModelSpec, spec: EngineSpec, library: ModuleType, checkpoint: Path | None = None
) -> EngineSet:
    """Read the engines of a folder that a user names. Their build options may be any.

    Args:
        folder: Folder of ``esam-rt build-engine --out``.
        row: The model.
        spec: The wanted backend, precision and GPU.
        library: The imported ``tensorrt`` or ``tensorrt_rtx``.
        checkpoint: Weights that the engines must have. Default: any.

    Returns:
        The engines.

    Raises:
        ModelError: A field of the record differs; the message names it.
        EngineError: The engines failed their self-test.
    """
    fields = {"format": FORMAT, "model": row.name, "exporter_version": EXPORTER_VERSION, "backend": spec.backend}
    fields |= {"backend_version": library.__version__, "precision": spec.precision}
    if checkpoint is not None:
        fields["checkpoint_sha256"] = checkpoint_sha256(checkpoint)
    engines = checked(folder, fields)
    if not engines.record.runs_on(spec.gpu):
        content = engines.record.to_json()
        raise ModelError(
            f"{folder / RECORD}: targets: found {brief(content['targets'] or content['gpu'])}, expected {spec.gpu}. "
            "Build the engines for this GPU."
        )
    return engines


def stored() -> list[Path]:
    """List the folders of the cache that hold engines, complete or not.

    Returns:
        The folders by name.

    Raises:
        OutputError: The cache cannot be read.
    """
    try:
        return sorted(p for p in store_folder().iterdir() if p.is_dir())
    except FileNotFoundError:
        return []
    except OSError as e:
        raise OutputError(
            f"{store_folder()}: cannot be read ({e.strerror}). Set ESAM_RT_CACHE to a folder of your own."
        ) from e


def verify(folder: Path) -> str | None:
    """Check a folder of engines, with the hash of each file.

    Args:
        folder: Folder of engines.

    Returns:
        What is wrong; ``None`` if nothing is.
    """
    try:
        engines = checked(folder)
        for name in ENGINE_FILES:
            if sha256_of(folder / name) != engines.record.engines[name].sha256:
                return f"{folder / name}: differs from its hash"
    except (ModelError, EngineError) as e:
        return str(e)
    return None


def outdated(folder: Path) -> str | None:
    """Check if a run can still use a folder of engines.

    Args:
        folder: Folder of engines.

    Returns:
        Why no run can use them; ``None`` if one can. Engines of a library that is not installed count as usable:
        another environment may share the cache.
    """
    try:
        record = checked(folder).record
        if record.backend not in LIBRARIES:
            found, known = brief(record.backend), ", ".join(LIBRARIES)
            return f"{folder / RECORD}: backend: found {found}, expected one of {known}"
        installed = load_library(record.backend).__version__
    except MissingDependencyError:
        return None
    except EsamError as e:
        return str(e)
    if record.format != FORMAT:
        return f"record has format {record.format}, this version needs {FORMAT}"
    if record.backend_version != installed and not record.runs_with(installed):
        return f"built with {record.backend} {record.backend_version}, installed is {installed}"
    if record.exporter_version != EXPORTER_VERSION:
        return f"built from graphs of version {record.exporter_version}, this is {EXPORTER_VERSION}"
    return None


def remove(folder: Path) -> int | None:
    """Remove a folder of engines.

    Args:
        folder: Folder of engines.

    Returns:
        Freed bytes; ``None`` if a build is running there.

    Raises:
        OutputError: The folder cannot be removed.
    """
    try:
        with _locked(folder, timeout=0):
            size = folder_bytes(folder)
            shutil.rmtree(folder)
            return size
    except Timeout:
        return None
    except OSError as e:
        raise OutputError(f"{folder}: cannot be removed ({e.strerror}). Check its permissions.") from e


def _build(
    folder: Path,
    recipe: EngineRecipe,
    graphs: OnnxModel,
    library: ModuleType,
    options: BuildOptions,
    on_event: OnEvent,
) -> None:
    """Build all engines and write them with their record."""
    measures = recipe.backend == "tensorrt" and recipe.gpu  # TensorRT-RTX compiles for the GPU when it runs
    timings = timing_cache("tensorrt", library.__version__, recipe.gpu.name) if measures and recipe.gpu else None
    engines: dict[str, EngineFile] = {}
    with written_together(folder) as temporary:
        for name, graph in zip(ENGINE_FILES, graphs, strict=True):

            def tell(phase: str, engine: str = name) -> None:
                on_event(Building(engine, phase))

            on_event(Building(name))
            built = build_engine(graph, library, options, tell, timings)
            (temporary / name).write_bytes(built.plan)
            engines[name] = EngineFile(
                sha256=sha256_of(temporary / name),
                size_bytes=(temporary / name).stat().st_size,
                layers=built.layers,
                attention=built.attention,
                seconds=round(built.seconds, 2),
                profile={key: [list(shape) for shape in shapes] for key, shapes in built.profile.items()},
            )
        made = {name: asdict(engine) for name, engine in engines.items()}
        write_json(temporary / RECORD, recipe.to_json() | {"engines": made, "built": utc_now()})
    restrict_writing(folder, recipe)


def _current_gpu(recipe: EngineRecipe, index: int) -> AbstractContextManager[None]:
    """Context in which the library builds for GPU ``index``: it takes the current one of the thread."""
    if recipe.gpu is None:
        return contextlib.nullcontext()
    from esam_rt.engines.cuda.api import Calls

    return Calls(None, index).current()


def _ahead_of_time(recipe: EngineRecipe, spec: EngineSpec) -> EngineSet | None:
    """Engines of the cache that run on this GPU, built ahead of time or by an earlier version for later ones."""
    if spec.gpu is None or spec.options is not None:
        return None
    for folder in stored():
        with contextlib.suppress(ModelError, EngineError):
            record = checked(folder).record
            wanted = replace(recipe, targets=record.targets, gpu=record.gpu, options=record.options)
            is_made_for_more = bool(record.targets) or record.is_version_compatible
            if is_made_for_more and record.runs_on(spec.gpu) and (there := _usable(folder, wanted.to_json())):
                if record.is_version_compatible:
                    check_trusted(folder)
                return there
    return None


def _tidy(folder: Path) -> None:
    """Remove what a killed build left beside whole engines, unless another one is running."""
    if any(folder.glob(f"{TEMPORARY}*")):
        with contextlib.suppress(Timeout, OSError), _locked(folder, timeout=0):
            remove_leftovers(folder)


def _locked(folder: Path, timeout: float = -1) -> FileLock:
    """The lock of a folder of engines. It lies in the cache, even if the folder does not."""
    store_folder().mkdir(parents=True, exist_ok=True)
    return FileLock(store_folder() / f".{path_key(folder)}.lock", timeout=timeout)


def _usable(folder: Path, wanted: Mapping[str, Any]) -> EngineSet | None:
    """The engines of a folder if they are the wanted ones and whole; hashes are checked, so that damage is mended."""
    with contextlib.suppress(ModelError):
        engines = checked(folder, wanted)
        return engines if verify(folder) is None else None
    return None
