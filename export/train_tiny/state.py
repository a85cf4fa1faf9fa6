"""The state of a training run on disk: it appears whole or not at all, and a run goes on from it exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from esam_rt.export.train_tiny.tiny_model import TinySam

STATE = "state.pt"


def save_weights(model: TinySam, path: Path) -> None:
    """Write weights as float16 safetensors."""
    partial = path.with_suffix(".partial")
    save_file({k: v.detach().half().cpu().contiguous() for k, v in model.state_dict().items()}, partial)
    partial.replace(path)


def load_weights(model: TinySam, path: Path) -> None:
    """Fill a model from a safetensors file.

    Raises:
        ValueError: The file has other tensors than the model.
    """
    result = model.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    if result.missing_keys:
        raise ValueError(f"{path}: found no tensor {result.missing_keys[0]}, which the model has")
    if result.unexpected_keys:
        raise ValueError(f"{path}: found tensor {result.unexpected_keys[0]}, which the model does not have")


def save_state(
    folder: Path,
    model: TinySam,
    average: TinySam,
    optimizer: torch.optim.Optimizer,
    step: int,
    schedule: dict[str, Any],
    core_s: float,
) -> None:
    """Write everything that the run needs to go on.

    Args:
        folder: Folder of the state.
        model: The model in training.
        average: Its moving average.
        optimizer: With its moments.
        step: Steps that are done.
        schedule: The run's schedule; chance follows from it and the step.
        core_s: Seconds of processor time so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE}.partial"
    content = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "schedule": schedule,
        "core_s": core_s,
    }
    torch.save(content, partial)
    partial.replace(folder / STATE)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The content that `save_state` wrote, or None."""
    path = folder / STATE
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
