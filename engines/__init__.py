"""Run ONNX networks: one ``Engine`` interface, one sub-package for each backend."""

from esam_rt.engines.engine import Array, DeviceTensor, Engine, TensorSpec

__all__ = ["Array", "DeviceTensor", "Engine", "TensorSpec"]
