"""Export a checkpoint to ONNX without PyTorch. The running pipeline never imports the exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esam_rt._lazy import lazy_names

if TYPE_CHECKING:
    from esam_rt.export.graphs.graph import Precision
    from esam_rt.export.graphs.vit import AttentionForm
    from esam_rt.export.model import ExportedModel, build_graphs, export_model

__all__ = ["AttentionForm", "ExportedModel", "Precision", "build_graphs", "export_model"]

_HOMES = {
    "AttentionForm": ".graphs.vit",
    "ExportedModel": ".model",
    "Precision": ".graphs.graph",
    "build_graphs": ".model",
    "export_model": ".model",
}
# Importing the exporter takes 0.3 s and 40 MB. The cache only needs its version.
__getattr__ = lazy_names(__name__, _HOMES)
