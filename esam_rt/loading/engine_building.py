"""Builds and tests the engines of a model: all that ``esam-rt build-engine`` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_rt.engines.tensorrt.builder import BuildOptions
from esam_rt.errors import ModelError, SettingsError
from esam_rt.export.checkpoints.checkpoint_hash import checkpoint_sha256
from esam_rt.loading.checkpoints import checkpoint_of
from esam_rt.loading.engine_cache import engine_set, gpu_here
from esam_rt.loading.engine_record import EngineRecord, EngineSet, checked
from esam_rt.loading.engine_spec import EngineSpec
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.loading.execution import Backend, ExecutionConfig, PrecisionName
from esam_rt.loading.exported_folder import GivenGraphs, given_graphs
from esam_rt.loading.loader import load_sam
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.sam.models import ModelSpec, get_model


@dataclass(frozen=True)
class BuiltEngines:
    """Result of ``build_engines``.

    Attributes:
        backend: The backend.
        folder: Folder of the engines; for ONNX Runtime, that of the graphs.
        record: How the engines were made. ``None`` for ONNX Runtime, which runs the graphs.
        untested: Why there was no self-test; empty if there was one.
    """

    backend: str
    folder: Path
    record: EngineRecord | None = None
    untested: str = ""

    def to_json(self) -> dict[str, Any]:
        """Convert for ``--json``.

        Returns:
            A plain dict: backend, folder and the fields of the record.
        """
        fields = {} if self.record is None else self.record.to_json()
        return {"backend": self.backend, "folder": str(self.folder), **fields}


def build_engines(
    model: str | None = None,
    backend: Backend = "tensorrt-rtx",
    *,
    precision: PrecisionName | None = None,
    checkpoint: Path | None = None,
    onnx: Path | None = None,
    options: BuildOptions | None = None,
    fusion: bool = True,
    out: Path | None = None,
    force: bool = False,
    gpu: int = 0,
    on_event: OnEvent = ignore,
) -> BuiltEngines:
    """Find or make the graphs of a model, build its engines and test them.

    The self-test needs a GPU that runs the engines, and the weights.

    Args:
        model: A name that ``esam-rt models`` lists. Not needed with ``onnx``.
        backend: The library. For ``onnxruntime`` only the graphs are made.
        precision: Default: ``fp32`` for ONNX Runtime, ``fp16`` for TensorRT, or that of ``onnx``.
        checkpoint: Weights in place of the model's own.
        onnx: Folder of ``esam-rt export --out``, in place of ``model``.
        options: Targets, batch and so on. Default: engines for the GPU of this machine.
        fusion: If false, attention is not fused.
        out: Folder for the engines. Default: the cache.
        force: If true, existing engines are built again.
        gpu: Index of the GPU that builds.
        on_event: Called while the model is fetched, exported, built and tested.

    Returns:
        The engines and how they were made.

    Raises:
        SettingsError: A name is unknown, or two options exclude each other.
        ModelError: The checkpoint or a graph cannot be used, or ``onnx`` was made from another checkpoint.
        EngineError: A build or the self-test failed.
        DeviceError: The device is missing or out of memory.
        MissingDependencyError: The backend is not installed.
        OutputError: The folder cannot be written.

    Example:
        ``build_engines("tiny", "tensorrt-rtx", options=BuildOptions(targets=("sm_86",)))``
    """
    given = None
    if onnx is not None:
        given = _given(onnx, backend, model, precision, checkpoint, fusion)
        row, form = given.row, given.precision
    elif model is not None:
        row, form = get_model(model), precision or ("fp32" if backend == "onnxruntime" else "fp16")
    else:
        raise SettingsError("MODEL is missing. Give a name that esam-rt models lists, or --onnx FOLDER.")
    execution = ExecutionConfig(backend, precision=form, gpu=gpu)  # type: ignore[arg-type]
    if backend == "onnxruntime":
        if out is not None or options is not None or not fusion or force:
            raise SettingsError(
                "ONNX Runtime runs graphs: --target, --max-batch, --workspace, --no-fusion, --version-compatible, "
                "--strip-weights, --force and --out are for TensorRT. esam-rt export has --out and --attention."
            )
        files = onnx_model(row, checkpoint, form, None, on_event).files
        return BuiltEngines(backend, files[0].parent)
    spec = EngineSpec(backend, form, fusion, options or BuildOptions(), gpu_here(gpu), gpu)
    graphs = given.onnx if given else None
    built = engine_set(row, spec, checkpoint, out, force=force, on_event=on_event, graphs=graphs)
    untested, record = _test(row, spec, built, execution, given, checkpoint, out, on_event)
    return BuiltEngines(backend, built.folder, record, untested)


def _test(
    row: ModelSpec,
    spec: EngineSpec,
    built: EngineSet,
    execution: ExecutionConfig,
    given: GivenGraphs | None,
    checkpoint: Path | None,
    out: Path | None,
    on_event: OnEvent,
) -> tuple[str, EngineRecord]:
    """Load the engines, which tests them. Returns why there was no test, and the record after it."""
    if built.record.is_version_compatible and out is not None:
        return "version-compatible engines run from the cache only", built.record
    if not built.record.runs_on(spec.gpu):
        return "no matching GPU", built.record
    weights = _weights(row, given, checkpoint, on_event)
    if weights is None:
        return "the weights of these graphs are unknown; give --checkpoint", built.record
    given_folder = ExecutionConfig(
        execution.backend, precision=execution.precision, engines=built.folder, gpu=execution.gpu
    )
    load_sam(row.name, given_folder, weights, on_event).close()
    return "", checked(built.folder).record


def _given(
    folder: Path, backend: str, model: str | None, precision: str | None, checkpoint: Path | None, fusion: bool
) -> GivenGraphs:
    """The graphs of ``folder``, if they are those that the other options want."""
    if backend == "onnxruntime":
        raise SettingsError(f"--onnx {folder}: ONNX Runtime runs the graphs themselves. Use a backend of TensorRT.")
    if not fusion:
        raise SettingsError(
            f"--onnx {folder}: --no-fusion changes the graphs. Export them with --attention concat instead."
        )
    given = given_graphs(folder)
    for option, wanted, found in (("MODEL", model, given.row.name), ("--precision", precision, given.precision)):
        if wanted not in (None, found):
            raise SettingsError(f"{option} {wanted}: the graphs of {folder} are of {found}. Leave {option} out.")
    if checkpoint is not None and (digest := checkpoint_sha256(checkpoint)) != given.onnx.checkpoint_sha256:
        raise ModelError(
            f"--checkpoint {checkpoint}: found SHA-256 {digest[:12]}…, expected {given.onnx.checkpoint_sha256[:12]}…: "
            f"the graphs of {folder} were made from another checkpoint. Name that one, or export again."
        )
    return given


def _weights(row: ModelSpec, given: GivenGraphs | None, checkpoint: Path | None, on_event: OnEvent) -> Path | None:
    """The checkpoint to compare with; ``None`` for given graphs of weights that nobody named."""
    if given is not None and checkpoint is None:
        ships = row.checkpoint and checkpoint_sha256(row.checkpoint)
        if given.onnx.checkpoint_sha256 not in (ships, row.remote and row.remote.sha256):
            return None
    return checkpoint_of(row, checkpoint, on_event)
