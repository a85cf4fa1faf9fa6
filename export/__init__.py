"""Export a checkpoint to ONNX without PyTorch. The running pipeline never imports the exporter."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esam_rt.export.graphs.graph import Precision
    from esam_rt.export.graphs.vit import AttentionForm
    from esam_rt.export.model import ExportedModel, build_graphs, export_model

__all__ = ["AttentionForm", "ExportedModel", "Precision", "build_graphs", "export_model"]

_HOMES = {"AttentionForm": "graphs.vit", "Precision": "graphs.graph"}


def __getattr__(name: str) -> Any:
    # Importing the exporter takes 0.3 s and 40 MB. The cache only needs its version.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'model')}"), name)
