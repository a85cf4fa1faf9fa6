"""Writes a model repository for NVIDIA Triton Inference Server."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esam_rt.errors import OutputError, SettingsError
from esam_rt.integrations.triton.model_config import graph_config, whole_config
from esam_rt.integrations.triton.served_model import FILE, NetworkSpec, ServedModel, graph_names
from esam_rt.loading.events import OnEvent, ignore
from esam_rt.loading.memory_budget import GPU_BATCH
from esam_rt.loading.onnx_cache import onnx_model
from esam_rt.loading.onnxruntime_loader import GPU_ATTENTION
from esam_rt.sam.models import get_model
from esam_rt.segmenter import SegmenterConfig
from esam_rt.storage.atomic import output_error, write_json, write_text
from esam_rt.storage.locks import kept_from_others
from esam_rt.storage.manifest import MANIFEST, remove_leftovers, written_together

CONFIG = "config.pbtxt"
_MODEL_PY = '''"""The model's code is in the package esam-rt, which the server's Python has to have."""

from esam_rt.integrations.triton.python_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Repository:
    """A model repository on disk.

    Attributes:
        path: Folder for ``tritonserver --model-repository``.
        name: Name of the model that runs the whole of E-SAM.
        graph_names: Names of the models of the networks.
        version: Number of the models' version.
    """

    path: Path
    name: str
    graph_names: tuple[str, ...]
    version: int

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for ``--json``."""
        return {**asdict(self), "path": str(self.path)}


def export_repository(
    segmenter: SegmenterConfig,
    out: Path,
    *,
    version: int = 1,
    instances: int = 1,
    overwrite: bool = False,
    on_event: OnEvent = ignore,
) -> Repository:
    """Write the five models of E-SAM: the networks for the ONNX Runtime backend, and the Python model that uses them.

    Args:
        segmenter: Model, settings and device. Its backend is ``onnxruntime``.
        out: The repository. It may hold other models.
        version: Number of the version. The server runs the highest one.
        instances: Images that the server segments at the same time.
        overwrite: Write this version again if it exists.
        on_event: Called while the model is fetched and exported.

    Returns:
        The repository.

    Raises:
        SettingsError: An option does not fit, the version exists, or files of others are there.
        ModelError: The checkpoint cannot be used.
        OutputError: A file cannot be written.
    """
    execution, row = segmenter.execution, get_model(segmenter.model)
    if execution.backend != "onnxruntime":
        raise SettingsError(
            f"Backend {execution.backend}: the networks run on Triton's ONNX Runtime backend. "
            "Use backend onnxruntime with device cpu, cuda or tensorrt."
        )
    on_gpu = execution.device != "cpu"
    attention = GPU_ATTENTION if on_gpu and row.attention else None
    onnx = onnx_model(row, segmenter.checkpoint, str(execution.precision), attention, on_event)
    name = f"esam_{row.name}"
    graphs = onnx.map(NetworkSpec.of_graph)
    served = ServedModel(
        row.name,
        onnx.checkpoint_sha256,
        GPU_BATCH if on_gpu else row.decode_batch,
        segmenter.method,
        segmenter.settings,
        graph_names(name),
        graphs,
    )
    device = str(execution.device)
    with kept_from_others(out):
        for model in (*served.graph_names, name):
            _check_place(out / model, version, overwrite)
        for model, file, graph in zip(served.graph_names, onnx, graphs, strict=True):
            files = [path for path in onnx.files if path.name in (file.name, f"{file.name}.data")]
            config = graph_config(model, file.name, graph, device, instances, execution.threads, warm_up=True)
            _write(out / model, version, config, files)
        _write(out / name, version, whole_config(name, instances), [], served)
    return Repository(out, name, tuple(served.graph_names), version)


def _check_place(folder: Path, version: int, overwrite: bool) -> None:
    """SettingsError if files of others are in the place of a version, or the version exists."""
    place = folder / str(version)
    try:
        names = {path.name for path in place.iterdir()} if place.exists() else set()
    except OSError as e:
        raise output_error(place, e) from e
    if names and MANIFEST not in names and any(not name.startswith(".") for name in names):
        raise SettingsError(f"{place}: holds files that esam-rt did not write. Choose another --out or --version.")
    if MANIFEST in names and not overwrite:
        raise SettingsError(f"{place}: this version exists. Give --overwrite, or another --version.")


def _write(folder: Path, version: int, config: str, files: list[Path], served: ServedModel | None = None) -> None:
    """Write one model: its version whole, then its config."""
    place = folder / str(version)
    try:
        place.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place)
        with written_together(place) as temporary:
            for file in files:
                shutil.copyfile(file, temporary / file.name)
            if served is not None:
                write_text(temporary / "model.py", _MODEL_PY)
                write_json(temporary / FILE, served.to_json())
    except OSError as e:
        raise e if isinstance(e, OutputError) else output_error(place, e) from e
    write_text(folder / CONFIG, config)
