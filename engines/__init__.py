"""ONNX → engine → infer(): one small module a backend, imported where it is used."""

from .base import Engine, Tensor

__all__ = ["Engine", "Tensor"]
