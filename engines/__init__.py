"""ONNX → engine → infer(): one small module a backend, imported where it is used."""

from esam_rt.engines.engine import Array, Engine, Kept, Tensor

__all__ = ["Array", "Engine", "Kept", "Tensor"]
