"""Engines that ONNX Runtime executes."""
