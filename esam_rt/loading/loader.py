"""Loads a model by name on a backend."""

from __future__ import annotations

from pathlib import Path

from esam_rt.loading.events import SILENT, ModelListener
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.onnxruntime_loader import load_onnxruntime
from esam_rt.loading.tensorrt_loader import load_tensorrt
from esam_rt.sam.models import get_model
from esam_rt.sam.predictor import Sam


def load_sam(
    model: str,
    execution: ExecutionConfig | None = None,
    checkpoint: Path | str | None = None,
    listener: ModelListener = SILENT,
) -> Sam:
    """The engines of a model by name, exported and built first where need be.

    checkpoint: instead of the model's own. Errors: SettingsError for unknown names and a budget of memory that is too
    small, MissingDependencyError for a backend that is not installed, ModelError, EngineError and DeviceError for what
    cannot be loaded.
    """
    execution = execution or ExecutionConfig()
    row = get_model(model)
    file = Path(checkpoint) if checkpoint is not None else None
    if execution.backend == "onnxruntime":
        return load_onnxruntime(row, execution, file, listener)
    return load_tensorrt(row, execution, file, listener)
