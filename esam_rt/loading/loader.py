"""Loads a model by name on a backend."""

from __future__ import annotations

from pathlib import Path

from esam_rt.loading.events import OnEvent, ignore
from esam_rt.loading.execution import ExecutionConfig
from esam_rt.loading.onnxruntime_loader import load_onnxruntime
from esam_rt.loading.tensorrt_loader import load_tensorrt
from esam_rt.sam.models import get_model
from esam_rt.sam.predictor import Sam


def load_sam(
    model: str,
    execution: ExecutionConfig | None = None,
    checkpoint: Path | str | None = None,
    on_event: OnEvent = ignore,
) -> Sam:
    """Load the engines of a model. The first call exports the model, and builds its engines for TensorRT.

    Args:
        model: A name that ``esam-rt models`` lists.
        execution: Backend, device and limits. Default: ONNX Runtime on the CPU.
        checkpoint: Weights in place of the model's own.
        on_event: Called while the model is fetched, exported, built and tested.

    Returns:
        The loaded model. Close it to free its memory.

    Raises:
        SettingsError: The name is unknown, or the memory limit is too small.
        MissingDependencyError: The backend is not installed.
        ModelError: The checkpoint, a graph or an engine cannot be used.
        EngineError: An engine cannot be built, or failed its self-test.
        DeviceError: The device is missing or out of memory.

    Example:
        ``load_sam("tiny", ExecutionConfig(device="cuda"))``
    """
    execution = execution or ExecutionConfig()
    row = get_model(model)
    file = Path(checkpoint) if checkpoint is not None else None
    load = load_onnxruntime if execution.backend == "onnxruntime" else load_tensorrt
    return load(row, execution, file, on_event)
